"""The rows of the report: everything that is said of one turn, ready to be written down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mmerc.conversation import Emotion
from mmerc.explanation import Explanation, Influence
from mmerc.report.recording import Recording
from mmerc.report.timeline import clock, spans_ms

SURE: Final = 0.5  # confidence below which a prediction is marked as uncertain
FELT: Final = 0.005  # change of probability from which on an influence is shown in the row itself
LONG: Final = 600  # characters from which on a text gets a scroll bar
EXCERPT: Final = 70  # characters of the turn that an influence comes from


@dataclass(frozen=True, slots=True)
class Share:
    """The probability of a label, and where it lies in a stacked bar, in percents."""

    label: int
    percent: str
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Source:
    """A modality and how much it counted; a missing one has no share."""

    name: str
    percent: str
    width: float | None


@dataclass(frozen=True, slots=True)
class Moved:
    """What another turn did to the probability of the emotion of this one."""

    turn: int
    speaker: str
    excerpt: str
    change: float
    points: str
    later: bool

    @property
    def felt(self) -> bool:
        """Whether it is worth a place in the row."""
        return abs(self.change) >= FELT


@dataclass(frozen=True, slots=True)
class Turn:
    """One row."""

    index: int
    speaker: str
    text: str
    when: str  # "" where the time is not known
    start_s: float | None
    end_s: float | None
    moment: str  # where the recording plays it, "" without one
    picture: str  # data URI, "" without one
    label: int
    confidence: str
    low: bool
    second: Share | None
    shares: tuple[Share, ...]  # as they are stacked
    ranked: tuple[Share, ...]  # most likely first
    sources: tuple[Source, ...]
    context: Source | None
    moved: tuple[Moved, ...]
    gold: str | None

    @property
    def long(self) -> bool:
        """Whether the text would fill the page."""
        return len(self.text) > LONG


def rows(
    explanation: Explanation,
    labels: Sequence[str],
    order: Sequence[int],
    recording: Recording | None,
) -> list[Turn]:
    """Return the rows of one conversation.

    Args:
        explanation: of the conversation
        labels: names, in the order of their numbers
        order: numbers of the labels, as their probabilities are stacked
        recording: what plays the moments and shows them
    """
    prediction = explanation.prediction
    spans = spans_ms(prediction.conversation)
    pictures = recording.pictures(spans) if recording and spans else {}
    speakers = [u.speaker for u in prediction.conversation]
    texts = [u.text for u in prediction.conversation]
    found = []
    for index, (utterance, emotion) in enumerate(prediction):
        span = spans[index] if spans else None
        shares = _shares(emotion, labels, order)
        ranked = tuple(sorted(shares, key=lambda share: -share.width))
        moved = [_moved(i, index, speakers, texts) for i in explanation.influences[index]]
        found.append(
            Turn(
                index=index,
                speaker=utterance.speaker,
                text=utterance.text,
                when=_when(utterance.start_ms),
                start_s=span[0] / 1000 if span else None,
                end_s=span[1] / 1000 if span else None,
                moment=recording.moment(*span) if recording and span else "",
                picture=pictures.get(index, ""),
                label=labels.index(emotion.label),
                confidence=percent(emotion.confidence),
                low=emotion.confidence < SURE,
                second=ranked[1] if len(ranked) > 1 else None,
                shares=shares,
                ranked=ranked,
                sources=_sources(emotion),
                context=_source("context", emotion.context_weight),
                moved=tuple(moved),
                gold=utterance.label,
            )
        )
    return found


def percent(value: float) -> str:
    """Return a share of 1 in percents, as people read it: never 0 or 100 where it is not."""
    if 0 < value < 0.005:
        return "< 1\u00a0%"
    if 0.995 <= value < 1:
        return "> 99\u00a0%"
    return f"{100 * value:.0f}\u00a0%"


def points(change: float) -> str:
    """Return a change in percentage points, with its sign."""
    size = abs(100 * change)
    digits = 0 if size >= 9.95 else 1 if size >= 0.05 else 3
    return f"{'+' if change > 0 else '−'}{size:.{digits}f}"


def _when(start_ms: int | None) -> str:
    return "" if start_ms is None else clock(start_ms)


def _shares(emotion: Emotion, labels: Sequence[str], order: Sequence[int]) -> tuple[Share, ...]:
    shares, x = [], 0.0
    for label in order:
        width = 100 * emotion.probabilities.get(labels[label], 0.0)
        shares.append(Share(label, f"{width:.1f}\u00a0%", round(x, 1), round(width, 2)))
        x += width
    return tuple(shares)


def _sources(emotion: Emotion) -> tuple[Source, ...]:
    if emotion.contributions is None:
        return ()
    return tuple(
        Source(name, "missing", None)
        if value is None
        else Source(name, percent(value), round(100 * value, 1))
        for name, value in emotion.contributions.items()
    )


def _source(name: str, value: float | None) -> Source | None:
    return None if value is None else Source(name, percent(value), round(100 * value, 1))


def _moved(influence: Influence, index: int, speakers: Sequence[str], texts: Sequence[str]) -> Moved:
    text = " ".join(texts[influence.turn].split())
    return Moved(
        turn=influence.turn,
        speaker=speakers[influence.turn],
        excerpt=text if len(text) <= EXCERPT else text[: EXCERPT - 1].rstrip() + "…",
        change=influence.change,
        points=points(influence.change),
        later=influence.turn > index,
    )
