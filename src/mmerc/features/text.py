"""Text features: every utterance read inside its dialogue by a pretrained encoder (DF-ERC, eq. 1).

Whole utterances are packed into windows as long as the encoder can read (spec A15), and the vector of an
utterance is the mean over the hidden states of its own tokens. The same encoder makes the frozen
features of a corpus (`encode`) and is trained with a network end to end (`TextEncoder.forward`).

Frozen vectors of a small encoder are better when they take several layers, and read each utterance alone
as well (docs/log.md); `frozen_encoder` knows what suits an encoder.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mmerc.errors import FeatureError
from mmerc.features import pretrained
from mmerc.storage import atomic_folder, write_json

_TOKENIZING = threading.Lock()  # a tokenizer's settings change inside a call
_NO_LIMIT = 512  # tokens in a window of an encoder that names no limit of its own

Scope = Literal["dialogue", "utterance", "both"]


class Tokens(NamedTuple):
    """The windows of a batch, padded to the longest."""

    input_ids: Tensor  # (W, L) int64
    attention_mask: Tensor  # (W, L) int64: 1 for tokens, 0 for padding
    rows: Tensor  # (W, L) int64: the batch's utterance that a token belongs to; -1 for special and padding


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


class Window(NamedTuple):
    """Consecutive utterances of one dialogue that are read at once."""

    rows: Sequence[int]  # of the utterances in it
    ids: list[list[int]]  # their tokens, none of them empty

    def shifted(self, offset: int) -> "Window":
        """Return the window with `offset` added to its rows."""
        return self._replace(rows=[row + offset for row in self.rows])


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
        if recipe.window > longest or self._capacity < 1:
            raise FeatureError(
                f"text encoder {recipe.encoder!r}: a window of {recipe.window} tokens is not possible; "
                f"it takes {recipe.window - self._capacity + 1} to {longest}"
            )
        if gradient_checkpointing:
            try:
                parts.model.activation_checkpointing_enable()
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
        source = pretrained.find(name, revision)
        parts = pretrained.read(source.folder)
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

    def pack(self, dialogues: list[list[list[int]]]) -> Tokens:
        """Lay the token ids of dialogues × utterances out in windows, none of which spans two dialogues.

        With the scope `both`, the rows of the utterances read alone follow those of the dialogues.
        """
        count = sum(len(utterances) for utterances in dialogues)
        windows = []
        for part, scope in enumerate(self.scopes):
            windows += [window.shifted(part * count) for window in self.windows(dialogues, scope)]
        return self.collate(windows)

    def forward(self, tokens: Tokens, count: int) -> Tensor:
        """Return the mean of the hidden states over the tokens of every utterance.

        Args:
            tokens: windows of W × L tokens, as `pack` lays them out.
            count: number N of utterances.

        Returns:
            (N, width), at least float32; zeros for an utterance without tokens.
        """
        scopes = len(self.scopes)
        vectors = self.pooled(tokens, scopes * count)
        return vectors.view(scopes, count, self.part).transpose(0, 1).reshape(count, self.width)

    def pooled(self, tokens: Tokens, count: int) -> Tensor:
        """Return the mean over the tokens of each of `count` rows, (count, width of one scope)."""
        if not len(tokens.input_ids):
            return torch.zeros(count, self.part, device=tokens.input_ids.device)
        layers = self._recipe.layers
        states = self.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            output_hidden_states=layers is not None,
        )
        hidden: Tensor = states.last_hidden_state
        if layers is not None:
            hidden = torch.cat([states.hidden_states[layer] for layer in layers], dim=-1)
        hidden = hidden.flatten(0, 1)  # (W L, width of one scope)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        # What belongs to no utterance is added up in a row of its own, which is left out below: unlike
        # boolean indexing, this keeps the shapes fixed.
        rows = tokens.rows.where(tokens.rows >= 0, count).flatten()
        sums = hidden.new_zeros(count + 1, self.part).index_add(0, rows, hidden)
        sizes = hidden.new_zeros(count + 1).index_add(0, rows, hidden.new_ones(rows.shape[0]))
        return sums[:count] / sizes[:count, None].clamp(min=1)

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
        """Add the special tokens and pad to the longest window."""
        padding = self.packing["padding"]
        width = max((self.length(window) for window in windows), default=0)
        input_ids = np.full((len(windows), width), padding, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        rows = np.full_like(input_ids, -1)
        for w, window in enumerate(windows):
            body = [token for ids in window.ids for token in ids]
            sequence = [*self._prefix, *body, *self._suffix]
            start = len(self._prefix)
            input_ids[w, : len(sequence)] = sequence
            attention_mask[w, : len(sequence)] = 1
            rows[w, start : start + len(body)] = np.repeat(window.rows, [len(ids) for ids in window.ids])
        return Tokens(*map(torch.from_numpy, (input_ids, attention_mask, rows)))

    def length(self, window: Window) -> int:
        """Return how many tokens a window takes, special ones included."""
        return len(self._prefix) + sum(map(len, window.ids)) + len(self._suffix)


def pack_windows(counts: Sequence[int], capacity: int) -> list[range]:
    """Cut the utterances of a dialogue into windows, each taking utterances as long as they fit.

    Args:
        counts: tokens of each utterance, none above `capacity`.
        capacity: tokens that fit into a window.

    Returns:
        Consecutive ranges over the utterances.
    """
    windows: list[range] = []
    start = used = 0
    for i, count in enumerate(counts):
        if count > capacity:
            raise ValueError(f"utterance {i} has {count} tokens, a window takes {capacity}")
        if used + count > capacity:
            windows.append(range(start, i))
            start, used = i, 0
        used += count
    return [*windows, range(start, len(counts))] if counts else []


def _special_tokens(tokenizer: Any, name: str) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text; not every tokenizer can be asked directly."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise FeatureError(f"text encoder {name!r}: its tokenizer does not put special tokens around a text")


def _layer_count(model: Any) -> int:
    return int(getattr(model.config, "num_hidden_layers", None) or model.config.num_layers)


def _longest_window(parts: pretrained.Parts) -> int:
    """Return how many tokens the model has positions for and its tokenizer allows."""
    limits = [int(parts.tokenizer.model_max_length)]  # astronomical where nobody set it
    positions = getattr(parts.model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        # RoBERTa and its kin count from behind the padding index: 514 positions hold 512 tokens.
        lost = [
            module.padding_idx + 1
            for name, module in parts.model.named_modules()
            if name.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ]
        limits.append(positions - max(lost, default=0))
    longest = min(limits)
    return longest if longest < 10**9 else _NO_LIMIT


def _well_formed(text: str) -> str:
    """Strip the text, join surrogate pairs, and replace lone surrogates, which are not Unicode."""
    return text.strip().encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def first_line(error: Exception) -> str:
    """Return what is wrong in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
