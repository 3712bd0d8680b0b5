"""Annotation tiers, as ELAN and Praat have them, made into utterances.

A tier is a speaker and its annotations are utterances, unless its name, or in ELAN its type, has the word
emotion or label: then it holds the labels of the tier that the rest of its name, its parent or its
participant says (`Anna-emotion`), or of all tiers (`emotion`). An utterance gets the label that overlaps
it most, if that is at least half of the shorter of the two.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmerc.errors import ConversationError
from mmerc.transcripts.rows import LATEST_MS, Row, short


class Annotation(NamedTuple):
    """What is said, or the label, over a stretch of time in milliseconds."""

    where: str
    start_ms: float
    end_ms: float
    text: str


class Tier(NamedTuple):
    """One tier in the order of the file."""

    name: str
    annotations: list[Annotation]
    participant: str = ""
    parent: str = ""  # the name of the independent tier above it
    kind: str = ""

    @property
    def speaker(self) -> str:
        """Who speaks in it."""
        return self.participant or self.name

    @property
    def holds_labels(self) -> bool:
        """Whether it holds labels rather than utterances."""
        return any(_LABELS.search(name) for name in (self.name, self.kind))


_LABELS = re.compile(r"(?:^|[\W_]) (?:emotions?|labels?) (?=$|[\W_])", re.IGNORECASE | re.VERBOSE)


def moment(where: str, value: str, milliseconds: float) -> float:
    """Return the milliseconds of a time whose unit has so many.

    Raises:
        ConversationError: it is no time, or a negative one.
    """
    try:
        found = milliseconds * float(value)
    except ValueError:
        found = math.nan
    if not 0 <= found <= LATEST_MS:
        raise ConversationError(f"{where}: expected a time from 0 on, not {short(value)}")
    return found


def tier_rows(path: Path, tiers: Sequence[Tier]) -> Iterator[Row]:
    """Yield the utterances of tiers, with their labels.

    Raises:
        ConversationError: there are labels alone, or labels of a tier that is not there.
    """
    spoken = [tier for tier in tiers if not tier.holds_labels and not tier.parent]
    filled = [tier for tier in tiers if tier.annotations]
    if filled and not any(tier.annotations for tier in spoken):
        raise ConversationError(
            f"{path}: no tier has utterances, only labels or what depends on another tier: "
            f"{', '.join(short(tier.name) for tier in filled)}"
        )
    labels = [(_owners(path, tier, spoken), tier) for tier in filled if tier.holds_labels]
    for number, tier in enumerate(spoken):
        own = [a for owners, labelled in labels if number in owners for a in labelled.annotations]
        for annotation, label in zip(tier.annotations, _found(tier.annotations, own), strict=True):
            where, start, end, text = annotation
            said = {"speaker": tier.speaker, "text": text, "start_ms": start, "end_ms": end, "label": label}
            yield Row(where, said, timed=True)


def _owners(path: Path, labels: Tier, spoken: Sequence[Tier]) -> list[int]:
    """Return the numbers of the tiers whose labels these are."""
    named = labels.name if _LABELS.search(labels.name) else ""
    rest = _bare(_LABELS.sub("", named))
    owners = [owner for owner in (labels.parent, rest, labels.participant) if owner]
    names = [{_key(tier.name), _key(tier.speaker)} for tier in spoken]
    for owner in owners:
        if numbers := [number for number, found in enumerate(names) if _key(owner) in found]:
            return numbers
    if not owners:
        return list(range(len(spoken)))
    raise ConversationError(
        f"{path}: tier {short(labels.name)} holds labels of {short(owners[0])}, but no tier has that name; "
        f"there is {', '.join(short(tier.name) for tier in spoken)}; name it 'emotion' if it is of all tiers"
    )


def _bare(name: str) -> str:
    """Return a name without what is no letter or digit around it."""
    return re.sub(r"^[\W_]+|(?<![\W_])[\W_]+$", "", name)


def _key(name: str) -> str:
    return _bare(name).casefold() or name


def _found(utterances: Sequence[Annotation], labels: Sequence[Annotation]) -> list[str | None]:
    if not labels:
        return [None] * len(utterances)
    starts, ends = (np.array([label[i] for label in labels]) for i in (1, 2))  # (L,)
    found: list[str | None] = []
    for _, start, end, _ in utterances:
        overlap = np.minimum(ends, end) - np.maximum(starts, start)
        best = int(overlap.argmax())
        shorter = min(end - start, ends[best] - starts[best])
        found.append(labels[best].text if overlap[best] >= max(shorter / 2, 0) else None)
    return found
