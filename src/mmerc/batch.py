"""The flat batch: the utterances of several dialogues one after the other, without padding."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MISSING = -1  # class index of an utterance that nobody labelled


class Tokens(NamedTuple):
    """A block: lines of one or more windows, padded to the longest line."""

    input_ids: Tensor  # (W, L) int64
    attention_mask: (
        Tensor  # (W, L) int64: 1, 2, … for tokens of a line's first, second, … window; 0 for padding
    )
    rows: Tensor  # (W, L) int64: the batch's utterance that a token belongs to; -1 for special and padding
    positions: Tensor | None = None  # (W, L) int64: places inside windows; None: every line is one window

    def to(self, device: torch.device) -> "Tokens":
        """Return the block on `device`."""
        ids, mask, rows = (x.to(device, non_blocking=True) for x in self[:3])
        positions = None if self.positions is None else self.positions.to(device, non_blocking=True)
        return Tokens(ids, mask, rows, positions)


class Batch(NamedTuple):
    """B dialogues with N utterances in all, dialogue after dialogue.

    Modalities are walked in the order of `features`, which is sorted by name.
    """

    features: dict[str, Tensor]  # modality → (N, d_m); zeros where absent
    present: Tensor  # (N, M) bool
    lengths: Tensor  # (B,) int64, on the CPU; sums to N
    speakers: Tensor  # (N,) int64, on the CPU: 0, 1, … by first appearance in the dialogue
    labels: Tensor | None = None  # (N,) int64; MISSING where nobody labelled
    tokens: tuple[Tokens, ...] | None = None  # when the text encoder is part of the network

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; `lengths` and `speakers`, which say its layout, stay on the CPU."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return self._replace(
            features={m: move(x) for m, x in self.features.items()},
            present=move(self.present),
            labels=None if self.labels is None else move(self.labels),
            tokens=None if self.tokens is None else tuple(block.to(device) for block in self.tokens),
        )


def length_buckets(
    lengths: npt.NDArray[np.int64],
    batch_size: int,
    generator: np.random.Generator | None = None,
    utterances: int | None = None,
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield positions into `lengths`, batch by batch, dialogues of like length together.

    With a `generator`, dialogues are shuffled, sorted within pools of 16 batches, and the batches shuffled
    again: little padding inside layers that pad, and still another order every epoch. Without, the order is
    that of the lengths.

    Args:
        lengths: (D,) utterances of each dialogue
        batch_size: dialogues in a batch
        generator: source of the order
        utterances: if given, a batch holds about so many utterances instead, whatever its dialogues' lengths
    """
    if generator is None:
        yield from _batches(np.argsort(lengths, kind="stable"), lengths, batch_size, utterances)
        return
    order = generator.permutation(len(lengths))
    if utterances is not None:
        batch_size = max(1, round(utterances / float(lengths.mean())))
    pool = 16 * batch_size
    batches = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += _batches(part, lengths, batch_size, utterances)
    for index in generator.permutation(len(batches)):
        yield batches[index]


def _batches(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], batch_size: int, utterances: int | None
) -> list[npt.NDArray[np.int64]]:
    """Cut dialogues, in the given order, into batches of so many dialogues or about so many utterances."""
    if utterances is None:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    before = np.cumsum(lengths[order]) - lengths[order]
    number = before // utterances
    return np.split(order, np.flatnonzero(np.diff(number)) + 1)


def drop_modalities(present: Tensor, chance: float, generator: np.random.Generator) -> Tensor:
    """Hide each modality of each utterance with the given chance, but never an utterance's last one.

    Args:
        present: (N, M) bool
        chance: of each modality
        generator: source of the draws
    """
    given = present.numpy()
    kept = given & (generator.random(given.shape) >= chance)
    kept[~kept.any(axis=1)] = given[~kept.any(axis=1)]
    return torch.from_numpy(kept)


def uncounted(batch: Batch) -> Batch:
    """Return the batch without anything that a loss could count: nothing present, nothing labelled."""
    labels = None if batch.labels is None else torch.full_like(batch.labels, MISSING)
    return batch._replace(present=torch.zeros_like(batch.present), labels=labels)


def targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the labels (N,) of a batch, and the mask (N,) of the utterances that have one.

    Raises:
        ValueError: the batch has no labels at all.
    """
    if batch.labels is None:
        raise ValueError("the batch carries no labels")
    return batch.labels, batch.labels != MISSING
