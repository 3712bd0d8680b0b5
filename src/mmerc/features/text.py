"""Text features: every utterance read inside its dialogue by a pretrained encoder (DF-ERC, eq. 1).

Whole utterances are packed into windows as long as the encoder can read (spec A15), and the vector of an
utterance is the mean over the hidden states of its own tokens. The same encoder makes the frozen
features of a corpus (`encode`) and is trained with a network end to end (`TextEncoder.forward`).

Frozen vectors of a small encoder are better when they take several layers, and read each utterance alone
as well (docs/log.md); `frozen_encoder` knows what suits an encoder.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mmerc.batch import Tokens
from mmerc.errors import FeatureError
from mmerc.features import pretrained
from mmerc.features.packing import (
    LINE,
    Window,
    lay_out,
    pack_windows,
    share_lines,
    split_blocks,
)
from mmerc.storage import atomic_folder, write_json

_log = logging.getLogger(__name__)

_TOKENIZING = threading.Lock()  # a tokenizer's settings change inside a call
_NO_LIMIT = 512  # tokens in a window of an encoder that names no limit of its own
# Families (config.json's `model_type`) known to read several windows in a line as if each were alone, from
# transformers 5 on: before, they take no mask that says which token sees which.
_SHARING = {"bert", "electra", "roberta", "xlm-roberta"}

Scope = Literal["dialogue", "utterance", "both"]


class TextRecipe(BaseModel):
    """How text vectors were made. Two encoders with equal recipes give equal vectors.

    Of an encoder that was trained further, it says where the training started.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: Literal["text-encoder"] = "text-encoder"
    encoder: str
    revision: str | None = None  # commit, for a name on the hub
    sha256: str  # of the weights
    pooling: Literal["mean"] = "mean"
    # Hidden states, concatenated (0: the embeddings); None: the last one. JSON knows lists only.
    layers: Annotated[tuple[int, ...] | None, Field(strict=False)] = None
    scope: Scope = "dialogue"  # an utterance is read inside its dialogue, alone, or both (concatenated)
    window: int = Field(gt=0)  # tokens, special ones included
    utterance_limit: int = Field(gt=0)  # tokens; longer utterances are clipped


class TextEncoder(nn.Module):
    """A pretrained encoder with its tokenizer: texts of dialogues → one vector per utterance.

    Attributes:
        width: width of the vectors.
        recipe: what identifies the vectors, JSON-ready (see `TextRecipe`).
    """

    def __init__(self, parts: pretrained.Parts, recipe: TextRecipe, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.model: nn.Module = parts.model
        self.scopes = ("dialogue", "utterance") if recipe.scope == "both" else (recipe.scope,)
        layers = 1 if recipe.layers is None else len(recipe.layers)
        self.part: int = layers * parts.model.config.hidden_size
        self.width: int = len(self.scopes) * self.part
        self._tokenizer, self._config = parts.tokenizer, parts.config
        self._recipe = recipe
        self._prefix, self._suffix = _special_tokens(self._tokenizer, recipe.encoder)
        longest = _longest_window(parts)
        self._capacity = recipe.window - len(self._prefix) - len(self._suffix)
        self._line = LINE if _shares_lines(parts.model.config) else 0  # tokens that windows may share
        self._first_position = _lost_positions(parts.model)
        if recipe.window > longest or self._capacity < 1:
            raise FeatureError(
                f"text encoder {recipe.encoder!r}: a window of {recipe.window} tokens is not possible; "
                f"it takes {recipe.window - self._capacity + 1} to {longest}"
            )
        if gradient_checkpointing:
            # Older releases of transformers have the other name only, newer ones warn of it.
            new = hasattr(parts.model, "activation_checkpointing_enable")
            name = "activation_checkpointing_enable" if new else "gradient_checkpointing_enable"
            try:
                getattr(parts.model, name)()
            except ValueError:
                raise FeatureError(
                    f"text encoder {recipe.encoder!r} has no gradient checkpointing: switch it off"
                ) from None
        self.eval()

    @classmethod
    def load(
        cls,
        name: str,
        *,
        window: int | None = None,
        utterance_limit: int = 256,
        gradient_checkpointing: bool = False,
        revision: str | None = None,
        layers: Sequence[int] | None = None,
        scope: Scope = "dialogue",
    ) -> "TextEncoder":
        """Load a pretrained encoder, in evaluation mode.

        Args:
            name: `minilm` (embedded), a folder, or a name on the Hugging Face hub such as `roberta-large`,
                which is downloaded unless it is cached.
            window: tokens that are read at once, special ones included; None: as many as the encoder can.
            utterance_limit: tokens after which an utterance is clipped.
            gradient_checkpointing: in training, compute activations twice instead of keeping them.
            revision: commit or branch on the hub.
            layers: hidden states to concatenate, 0 being the embeddings; None: the last one.
            scope: read an utterance inside its `dialogue` (eq. 1), the `utterance` alone, or `both`.

        Raises:
            FeatureError: the encoder is not there, cannot be fetched or read, or the limits do not suit it.
        """
        if utterance_limit < 1 or (window is not None and window < 1):
            raise FeatureError(f"text encoder {name!r}: window and utterance limit must be at least 1 token")
        begin = time.perf_counter()
        source = pretrained.find(name, revision)
        parts = pretrained.read(source.folder)
        _log.debug("text encoder %s: %s, %.1f s", name, source.folder, time.perf_counter() - begin)
        deepest = _layer_count(parts.model)
        if layers is not None and not (layers and all(0 <= layer <= deepest for layer in layers)):
            raise FeatureError(f"text encoder {name!r}: layers are 0 to {deepest}, not {list(layers)}")
        recipe = TextRecipe(
            layers=None if layers is None else tuple(layers),
            scope=scope,
            encoder=source.name,
            revision=source.revision,
            sha256=source.sha256,
            window=_longest_window(parts) if window is None else window,
            utterance_limit=utterance_limit,
        )
        return cls(parts, recipe, gradient_checkpointing)

    @classmethod
    def restore(cls, folder: str | Path, *, gradient_checkpointing: bool = False) -> "TextEncoder":
        """Rebuild, from what `save` wrote, an encoder whose weights `load_state_dict` has yet to fill.

        Raises:
            FeatureError: a file is missing or broken.
        """
        folder = Path(folder)
        path = folder / "recipe.json"
        try:
            recipe = TextRecipe.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise FeatureError(f"text encoder: {path} cannot be read ({first_line(error)})") from None
        return cls(pretrained.blank(folder), recipe, gradient_checkpointing)

    def save(self, folder: str | Path) -> None:
        """Write configuration, tokenizer and recipe, but no weights: they are part of the state dict."""
        with atomic_folder(Path(folder)) as temporary:
            self._config.save_pretrained(temporary)
            self._tokenizer.save_pretrained(temporary)
            write_json(temporary / "recipe.json", self.recipe)

    @property
    def recipe(self) -> dict[str, Any]:
        """What identifies the vectors, JSON-ready."""
        return self._recipe.model_dump(mode="json", exclude_none=True)

    @property
    def packing(self) -> dict[str, Any]:
        """What `tokenize` and `pack` go by, JSON-ready: enough to lay out windows without this class."""
        return {
            "scopes": list(self.scopes),
            "prefix": self._prefix,
            "suffix": self._suffix,
            "padding": self._tokenizer.pad_token_id or 0,
            "capacity": self._capacity,  # of a window, without prefix and suffix
            "utterance_limit": min(self._recipe.utterance_limit, self._capacity),
        }

    def tokenizer_json(self) -> str | None:
        """Return the tokenizer as the package tokenizers reads it; None if it is of another make."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        return None if backend is None else str(backend.to_str())

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of every utterance, clipped, without special tokens; [] for blank text.

        What looks like a special token ("[SEP]", "</s>") is read as the characters it consists of.
        """
        limit = self.packing["utterance_limit"]
        spoken = {i: _well_formed(text) for i, text in enumerate(texts) if text.strip()}
        ids: list[list[int]] = [[] for _ in texts]
        if spoken:
            with _TOKENIZING:
                encoded = self._tokenizer(
                    list(spoken.values()),
                    add_special_tokens=False,
                    split_special_tokens=True,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    verbose=False,
                )["input_ids"]
            for i, tokens in zip(spoken, encoded, strict=True):
                ids[i] = list(tokens[:limit])
        return ids

    def pack(self, dialogues: Sequence[Sequence[list[int]]]) -> tuple[Tokens, ...]:
        """Lay the token ids of dialogues × utterances out in blocks with little padding, for `forward`."""
        windows = self.all_windows(dialogues)
        lengths = [self.length(window) for window in windows]
        lines = share_lines(lengths, self._line)
        blocks = split_blocks([sum(lengths[i] for i in line) for line in lines])
        return tuple(self._lay_out([[windows[i] for i in lines[k]] for k in block]) for block in blocks)

    def forward(self, blocks: Sequence[Tokens], count: int) -> Tensor:
        """Return the mean of the hidden states over the tokens of every utterance.

        Args:
            blocks: the windows, as `pack` lays them out.
            count: number N of utterances.

        Returns:
            (N, width), at least float32; zeros for an utterance without tokens.
        """
        scopes = len(self.scopes)
        vectors = self.pooled(blocks, scopes * count)
        return vectors.view(scopes, count, self.part).transpose(0, 1).reshape(count, self.width)

    def pooled(self, blocks: Sequence[Tokens], count: int) -> Tensor:
        """Return the mean over the tokens of each of `count` rows, (count, width of one scope)."""
        if not blocks:
            return torch.zeros(count, self.part, device=next(self.parameters()).device)
        hidden = torch.cat(
            [self._read(block).flatten(0, 1) for block in blocks]
        )  # (tokens, width of one scope)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        # What belongs to no utterance is added up in a row of its own, which is left out below: unlike
        # boolean indexing, this keeps the shapes fixed.
        rows = torch.cat([block.rows.flatten() for block in blocks])
        rows = rows.where(rows >= 0, count)
        sums = hidden.new_zeros(count + 1, self.part).index_add(0, rows, hidden)
        sizes = hidden.new_zeros(count + 1).index_add(0, rows, hidden.new_ones(rows.shape[0]))
        return sums[:count] / sizes[:count, None].clamp(min=1)

    def _read(self, block: Tokens) -> Tensor:
        """Return the hidden states of a block, (W, L, width of one scope)."""
        layers, mask = self._recipe.layers, block.attention_mask
        places = {}
        if block.positions is not None:
            places["position_ids"] = block.positions + self._first_position
            # A window sees itself alone; padding sees padding, since it must see something.
            mask = mask[:, None, :, None] == mask[:, None, None, :]  # (W, 1, L, L)
        elif self._line and mask.device.type != "cpu":
            # Of a mask (W, L) the model asks whether it hides anything, and the host waits for the answer.
            mask = mask[:, None, None, :] > 0
        states = self.model(
            input_ids=block.input_ids,
            attention_mask=mask,
            output_hidden_states=layers is not None,
            **places,
        )
        if layers is None:
            last: Tensor = states.last_hidden_state
            return last
        return torch.cat([states.hidden_states[layer] for layer in layers], dim=-1)

    def all_windows(self, dialogues: Sequence[Sequence[list[int]]]) -> list[Window]:
        """Return the windows of dialogues × utterances × tokens, none of which spans two dialogues.

        With the scope `both`, the rows of the utterances read alone follow those of the dialogues.
        """
        count = sum(map(len, dialogues))
        return [
            window.shifted(part * count)
            for part, scope in enumerate(self.scopes)
            for window in self.windows(dialogues, scope)
        ]

    def windows(self, dialogues: Sequence[Sequence[list[int]]], scope: str) -> Iterator[Window]:
        """Yield the windows of dialogues × utterances × tokens; with the scope `utterance`, one for each."""
        first = 0
        for utterances in dialogues:
            counts = [len(ids) for ids in utterances]
            alone = scope == "utterance"
            parts = (
                [range(i, i + 1) for i in range(len(counts))]
                if alone
                else pack_windows(counts, self._capacity)
            )
            for part in parts:
                spoken = [i for i in part if utterances[i]]
                if spoken:
                    yield Window([first + i for i in spoken], [utterances[i] for i in spoken])
            first += len(utterances)

    def collate(self, windows: Sequence[Window]) -> Tokens:
        """Lay windows out in one block, each in a line of its own."""
        return self._lay_out([[window] for window in windows])

    def _lay_out(self, lines: Sequence[Sequence[Window]]) -> Tokens:
        return lay_out(lines, self._prefix, self._suffix, self._tokenizer.pad_token_id or 0)

    def length(self, window: Window) -> int:
        """Return how many tokens a window takes, special ones included."""
        return len(self._prefix) + sum(map(len, window.ids)) + len(self._suffix)


def _special_tokens(tokenizer: Any, name: str) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text; not every tokenizer can be asked directly."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise FeatureError(f"text encoder {name!r}: its tokenizer does not put special tokens around a text")


def _shares_lines(config: Any) -> bool:
    """Return whether several windows may be laid out in a line."""
    new = int(version("transformers").partition(".")[0]) >= 5
    return new and config.model_type in _SHARING and config._attn_implementation == "sdpa"


def _layer_count(model: Any) -> int:
    return int(getattr(model.config, "num_hidden_layers", None) or model.config.num_layers)


def _longest_window(parts: pretrained.Parts) -> int:
    """Return how many tokens the model has positions for and its tokenizer allows."""
    limits = [int(parts.tokenizer.model_max_length)]  # astronomical where nobody set it
    positions = getattr(parts.model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        limits.append(positions - _lost_positions(parts.model))
    longest = min(limits)
    return longest if longest < 10**9 else _NO_LIMIT


def _lost_positions(model: nn.Module) -> int:
    """Return the first position: RoBERTa and its kin count from behind the padding index (514 hold 512)."""
    lost = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
    ]
    return max(lost, default=0)


def _well_formed(text: str) -> str:
    """Strip the text, join surrogate pairs, and replace lone surrogates, which are not Unicode."""
    return text.strip().encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def first_line(error: Exception) -> str:
    """Return what is wrong in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
