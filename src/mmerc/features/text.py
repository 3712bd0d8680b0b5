"""Text features: every utterance read inside its dialogue by a pretrained encoder (DF-ERC, eq. 1).

Whole utterances are packed into windows as long as the encoder can read (spec A15), and the vector of an
utterance is the mean over the last hidden states of its own tokens. The same encoder makes the frozen
features of a corpus (`encode`) and is trained with a network end to end (`TextEncoder.forward`).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from mmerc.corpus import Features
from mmerc.errors import FeatureError
from mmerc.features import pretrained
from mmerc.storage import atomic_folder, write_json

_NO_LIMIT = 512  # tokens in a window of an encoder that names no limit of its own


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
    window: int = Field(gt=0)  # tokens, special ones included
    utterance_limit: int = Field(gt=0)  # tokens; longer utterances are clipped


class _Window(NamedTuple):
    rows: Sequence[int]  # of the utterances in it
    ids: list[list[int]]  # their tokens, none of them empty


class TextEncoder(nn.Module):
    """A pretrained encoder with its tokenizer: texts of dialogues → one vector per utterance.

    Attributes:
        width: width of the vectors.
        recipe: what identifies the vectors, JSON-ready (see `TextRecipe`).
    """

    def __init__(self, parts: pretrained.Parts, recipe: TextRecipe, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.model: nn.Module = parts.model
        self.width: int = parts.model.config.hidden_size
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
    ) -> "TextEncoder":
        """Load a pretrained encoder, in evaluation mode.

        Args:
            name: `minilm` (embedded), a folder, or a name on the Hugging Face hub such as `roberta-large`,
                which is downloaded unless it is cached.
            window: tokens that are read at once, special ones included; None: as many as the encoder can.
            utterance_limit: tokens after which an utterance is clipped.
            gradient_checkpointing: in training, compute activations twice instead of keeping them.
            revision: commit or branch on the hub.

        Raises:
            FeatureError: the encoder is not there, cannot be fetched or read, or the limits do not suit it.
        """
        if utterance_limit < 1 or (window is not None and window < 1):
            raise FeatureError(f"text encoder {name!r}: window and utterance limit must be at least 1 token")
        source = pretrained.find(name, revision)
        parts = pretrained.read(source.folder)
        recipe = TextRecipe(
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
            raise FeatureError(f"text encoder: {path} cannot be read ({_first_line(error)})") from None
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
        return self._recipe.model_dump(exclude_none=True)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of every utterance, clipped, without special tokens; [] for blank text.

        What looks like a special token ("[SEP]", "</s>") is read as the characters it consists of.
        """
        limit = min(self._recipe.utterance_limit, self._capacity)
        spoken = {i: _well_formed(text) for i, text in enumerate(texts) if text.strip()}
        ids: list[list[int]] = [[] for _ in texts]
        if spoken:
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
        """Lay the token ids of dialogues × utterances out in windows, none of which spans two dialogues."""
        return self._collate(list(self._windows(dialogues)))

    def forward(self, tokens: Tokens, count: int) -> Tensor:
        """Return the mean of the last hidden states over the tokens of every utterance.

        Args:
            tokens: windows of W × L tokens.
            count: number N of utterances.

        Returns:
            (N, width), at least float32; zeros for an utterance without tokens.
        """
        if not len(tokens.input_ids):
            return torch.zeros(count, self.width, device=tokens.input_ids.device)
        states = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        hidden: Tensor = states.last_hidden_state.flatten(0, 1)  # (W L, width)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        # What belongs to no utterance is added up in a row of its own, which is left out below: unlike
        # boolean indexing, this keeps the shapes fixed.
        rows = tokens.rows.where(tokens.rows >= 0, count).flatten()
        sums = hidden.new_zeros(count + 1, self.width).index_add(0, rows, hidden)
        sizes = hidden.new_zeros(count + 1).index_add(0, rows, hidden.new_ones(len(rows)))
        return sums[:count] / sizes[:count, None].clamp(min=1)

    def _windows(self, dialogues: Sequence[Sequence[list[int]]]) -> Iterator[_Window]:
        first = 0
        for utterances in dialogues:
            for part in pack_windows([len(ids) for ids in utterances], self._capacity):
                spoken = [i for i in part if utterances[i]]
                if spoken:
                    yield _Window([first + i for i in spoken], [utterances[i] for i in spoken])
            first += len(utterances)

    def _collate(self, windows: Sequence[_Window]) -> Tokens:
        padding = self._tokenizer.pad_token_id or 0
        width = max((self._length(window) for window in windows), default=0)
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

    def _length(self, window: _Window) -> int:
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


def encode(
    encoder: TextEncoder,
    dialogues: Sequence[Sequence[str]],
    progress: Callable[[int], None] | None = None,
    batch_tokens: int = 2048,
) -> Features:
    """Compute frozen text features, on the encoder's device and without dropout.

    Args:
        encoder: the encoder; its mode is as before afterwards.
        dialogues: texts of dialogues × utterances, N utterances in all.
        progress: called with the number of utterances done so far, at last with N.
        batch_tokens: tokens that are read at once, padding included; at least one window is.

    Returns:
        One row per utterance in the order given; `present` is False for texts without tokens.

    Raises:
        FeatureError: the encoder gives NaN or infinity.
    """
    ids = encoder.tokenize([text for utterances in dialogues for text in utterances])
    texts = iter(ids)
    windows = list(encoder._windows([[next(texts) for _ in utterances] for utterances in dialogues]))
    present = np.array([bool(tokens) for tokens in ids], dtype=np.bool_)
    values = np.zeros((len(ids), encoder.width), dtype=np.float32)
    device, training = next(encoder.parameters()).device, encoder.training
    report = progress or (lambda _: None)
    done = len(ids) - int(present.sum())  # texts without tokens need no work
    report(done)
    encoder.eval()
    try:
        with torch.inference_mode():
            for batch in _buckets(windows, encoder._length, batch_tokens):
                rows = [row for window in batch for row in window.rows]
                places = iter(range(len(rows)))
                local = [w._replace(rows=[next(places) for _ in w.rows]) for w in batch]
                tokens = Tokens(*(x.to(device) for x in encoder._collate(local)))
                values[rows] = encoder(tokens, len(rows)).cpu().numpy()
                done += len(rows)
                report(done)
    finally:
        encoder.train(training)
    if not np.isfinite(values).all():
        raise FeatureError(f"text encoder {encoder.recipe['encoder']!r} gives NaN or infinity")
    return Features(values, present, encoder.recipe)


def encoder_for(recipe: dict[str, Any], name: str | None = None) -> TextEncoder:
    """Load the encoder that a stored recipe names.

    Args:
        recipe: a `TextEncoder.recipe`.
        name: where that encoder lies here, if it is not where the recipe says.

    Raises:
        FeatureError: the recipe is none of a text encoder, the encoder cannot be loaded, or what was
            loaded has another recipe, such as other weights under the same name.
    """
    try:
        wanted = TextRecipe.model_validate(recipe)
    except ValidationError as error:
        raise FeatureError(f"no text encoder has the recipe {recipe} ({_first_line(error)})") from None
    encoder = TextEncoder.load(
        name or wanted.encoder,
        window=wanted.window,
        utterance_limit=wanted.utterance_limit,
        revision=None if name else wanted.revision,
    )
    moved: dict[str, Any] = {"encoder": wanted.encoder, "revision": wanted.revision} if name else {}
    found = encoder._recipe.model_copy(update=moved)
    if found != wanted:
        raise FeatureError(
            f"text encoder {name or wanted.encoder!r} is not the one that made the features: they follow "
            f"{wanted.model_dump(exclude_none=True)}, it has {encoder.recipe}"
        )
    encoder._recipe = wanted
    return encoder


def _buckets(
    windows: Sequence[_Window], length: Callable[[_Window], int], budget: int
) -> Iterator[list[_Window]]:
    """Yield windows of like length together, longest first, so many that the padded batch fits the budget."""
    order = sorted(windows, key=length, reverse=True)
    start = 0
    while start < len(order):
        size = max(1, budget // length(order[start]))
        yield order[start : start + size]
        start += size


def _special_tokens(tokenizer: Any, name: str) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text; not every tokenizer can be asked directly."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise FeatureError(f"text encoder {name!r}: its tokenizer does not put special tokens around a text")


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


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
