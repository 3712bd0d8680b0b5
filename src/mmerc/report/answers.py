"""Who answers which emotion with which, and what each speaker is like, as tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mmerc.conversation import Prediction

SHADES = 5


@dataclass(frozen=True, slots=True)
class Cell:
    """How often one emotion followed another; the shade is 0 to `SHADES`, by the share of its row."""

    count: int
    shade: int


@dataclass(frozen=True, slots=True)
class Answers:
    """Counts of emotion → emotion of the next turn of somebody else (of anybody, if nobody is named)."""

    labels: tuple[int, ...]  # numbers of those that occur
    rows: tuple[tuple[Cell, ...], ...]
    total: int
    same: int  # answers with the emotion that they answer
    named: bool  # whether the speakers are known


@dataclass(frozen=True, slots=True)
class Portion:
    """How many turns of somebody have a label, and where that lies in a bar, in percents."""

    label: int
    count: int
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker's turns."""

    name: str
    turns: int
    portions: tuple[Portion, ...]


def count_answers(prediction: Prediction, labels: Sequence[str]) -> Answers:
    """Count what follows what; a turn that follows one of the same speaker answers nobody."""
    speakers = [u.speaker for u in prediction.conversation]
    named = any(speakers)
    found = [labels.index(emotion.label) for emotion in prediction.emotions]
    pairs = Counter(
        (found[k], found[n])
        for k, n in pairwise(range(len(found)))
        if not named or speakers[k] != speakers[n]
    )
    there = tuple(k for k in range(len(labels)) if any(k in pair for pair in pairs))
    rows = []
    for before in there:
        total = sum(pairs[before, after] for after in there)
        rows.append(tuple(_cell(pairs[before, after], total) for after in there))
    same = sum(count for (before, after), count in pairs.items() if before == after)
    return Answers(there, tuple(rows), sum(pairs.values()), same, named)


def voices(prediction: Prediction, labels: Sequence[str], order: Sequence[int]) -> list[Voice]:
    """Return the speakers in the order of their first words, their emotions in the order given."""
    found: dict[str, Counter[int]] = {}
    for utterance, emotion in prediction:
        found.setdefault(utterance.speaker, Counter())[labels.index(emotion.label)] += 1
    return [_voice(name, counts, order) for name, counts in found.items()]


def _cell(count: int, total: int) -> Cell:
    return Cell(count, -(-SHADES * count // total) if total else 0)


def _voice(name: str, counts: Counter[int], order: Sequence[int]) -> Voice:
    portions, before, total = [], 0, counts.total()
    for label in order:
        if counts[label]:
            x, width = 100 * before / total, 100 * counts[label] / total
            portions.append(Portion(label, counts[label], round(x, 2), round(width, 2)))
            before += counts[label]
    return Voice(name, total, tuple(portions))
