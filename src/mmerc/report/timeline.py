"""The timeline of a conversation: a lane for each speaker, and the probabilities below, as geometry.

All x are percents of the width, so that the drawing fits any screen while its text keeps its size.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mmerc.conversation import Conversation, Prediction

LANES: Final = 12  # of the most talkative; the others share one
LANE: Final = 30  # pixels
TOP: Final = 16  # above the lanes, for the arcs
ASSUMED_MS: Final = 5000  # the length of a turn that has no end, at most
SPOKEN: Final = 0.2  # of the time, from which on an axis of time shows anything; a chat of days does not
CURVED: Final = 250  # turns up to which the ribbon is smooth
ROOM: Final = (("", 4.0), (" r2", 2.0), (" r3", 1.3))  # classes of bars by their width; see page.css
GRID: Final = (4000, 400)  # units of the ribbon


@dataclass(frozen=True, slots=True)
class Bar:
    """A turn in its lane."""

    turn: int
    lane: int
    x: float
    width: float

    @property
    def room(self) -> str:
        """The class that says how wide the drawing must be so that the bar has room for a shape."""
        return next((name for name, least in ROOM if self.width >= least), " r4")


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on the axis."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Area:
    """The probability of one label over the turns, and where its shape is put."""

    label: int
    path: str
    marks: tuple[tuple[float, float], ...]  # x and y, percents


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is drawn."""

    lanes: tuple[str, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    areas: tuple[Area, ...]
    by_time: bool

    @property
    def height(self) -> int:
        """Of the lanes and what is above them, in pixels."""
        return TOP + LANE * len(self.lanes)


def draw(prediction: Prediction, labels: Sequence[str], order: Sequence[int]) -> Timeline:
    """Lay out a conversation, by time where its times say something, else by turn.

    Args:
        prediction: of one conversation
        labels: names, in the order of their numbers
        order: numbers of the labels, as their probabilities are stacked from below
    """
    spans = spans_ms(prediction.conversation)
    by_time = spans is not None and _says_something(spans)
    lanes, places = _lanes([u.speaker for u in prediction.conversation])
    extents = _extents(spans if by_time and spans else [(k, k + 1) for k in range(len(prediction))])
    ticks = _time_ticks(spans) if by_time and spans else _turn_ticks(len(prediction))
    bars = tuple(Bar(k, places[k], *extent) for k, extent in enumerate(extents))
    return Timeline(lanes, bars, ticks, _areas(prediction, labels, order, extents), by_time)


def spans_ms(conversation: Conversation) -> list[tuple[int, int]] | None:
    """Return when each turn starts and ends; None unless every start is known.

    A turn without an end lasts until the next one starts, but no longer than `ASSUMED_MS`.
    """
    starts = [u.start_ms for u in conversation]
    if not all(start is not None for start in starts):
        return None
    known = [start for start in starts if start is not None]
    spans = []
    for start, after, utterance in zip(known, [*known[1:], None], conversation, strict=True):
        end = utterance.end_ms
        if end is None or end <= start:
            later = after if after is not None and after > start else start + ASSUMED_MS
            end = min(later, start + ASSUMED_MS)
        spans.append((start, end))
    return spans


def clock(ms: int) -> str:
    """Return a time as people write it: 0:07, 12:34, 1:02:03."""
    seconds = ms // 1000
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def _says_something(spans: Sequence[tuple[int, int]]) -> bool:
    length = max(end for _, end in spans) - min(start for start, _ in spans)
    return sum(end - start for start, end in spans) >= SPOKEN * length


def _extents(spans: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Return x and width of each span, in percents."""
    first = min(start for start, _ in spans)
    length = max(end for _, end in spans) - first
    return [
        (round(100 * (start - first) / length, 3), round(100 * (end - start) / length, 3))
        for start, end in spans
    ]


def _lanes(speakers: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Return the names of the lanes, in the order of their first words, and the lane of each turn."""
    if not any(speakers):
        return ("all turns",), [0] * len(speakers)
    names = list(dict.fromkeys(speakers))
    rest = ""
    if len(names) > LANES:
        kept = {name for name, _ in Counter(speakers).most_common(LANES - 1)}
        rest = f"{len(names) - len(kept)} others"
        names = [name for name in names if name in kept]
    places = {name: k for k, name in enumerate(names)}
    shown = [name or "unnamed" for name in names] + ([rest] if rest else [])
    return tuple(shown), [places.get(name, len(names)) for name in speakers]


def _time_ticks(spans: Sequence[tuple[int, int]]) -> tuple[Tick, ...]:
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    steps = [s * 1000 for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)]
    most = max(8, len(spans) // 20)  # the drawing grows with the turns
    step = next((s for s in steps if (last - first) / s <= most), -(-(last - first) // most))
    times = range(-(-first // step) * step, last + 1, step)
    return tuple(Tick(round(100 * (t - first) / (last - first), 3), clock(t)) for t in times)


def _turn_ticks(count: int) -> tuple[Tick, ...]:
    steps = (1, 2, 5, 10, 20)
    step = next((s for s in steps if count / s <= 10), 25)
    numbers = sorted({1, *range(step, count + 1, step)})
    return tuple(Tick(round(100 * (n - 0.5) / count, 3), str(n)) for n in numbers)


def _areas(
    prediction: Prediction,
    labels: Sequence[str],
    order: Sequence[int],
    extents: Sequence[tuple[float, float]],
) -> tuple[Area, ...]:
    turns = sorted(range(len(extents)), key=lambda k: extents[k][0] + extents[k][1] / 2)
    xs = [extents[k][0] + extents[k][1] / 2 for k in turns]
    below = [0.0] * len(turns)
    areas = []
    for label in order:
        name = labels[label]
        own = [prediction.emotions[k].probabilities.get(name, 0.0) for k in turns]
        above = [b + p for b, p in zip(below, own, strict=True)]
        areas.append(Area(label, _band(xs, below, above), _marks(xs, own, below)))
        below = above
    return tuple(areas)


def _band(xs: Sequence[float], below: Sequence[float], above: Sequence[float]) -> str:
    """Return the path of what lies between two lines; it goes on level to both ends of the axis."""
    width, height = GRID
    there = [(round(width * x / 100), round(height * (1 - y))) for x, y in zip(xs, above, strict=True)]
    back = [(round(width * x / 100), round(height * (1 - y))) for x, y in zip(xs, below, strict=True)]
    there = [(0, there[0][1]), *there, (width, there[-1][1])]
    back = [(width, back[-1][1]), *reversed(back), (0, back[0][1])]
    return f"M{there[0][0]} {there[0][1]}{_line(there)}L{back[0][0]} {back[0][1]}{_line(back)}z"


def _line(points: Sequence[tuple[int, int]]) -> str:
    if len(points) > CURVED:
        return "".join(f"L{x} {y}" for x, y in points[1:])
    curves = []
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) // 2
        curves.append(f"L{x1} {y1}" if y0 == y1 else f"C{middle} {y0} {middle} {y1} {x1} {y1}")
    return "".join(curves)


def _marks(
    xs: Sequence[float], own: Sequence[float], below: Sequence[float]
) -> tuple[tuple[float, float], ...]:
    """Return where to put the shape of a label: where it is at least a fifth, its highest places first."""
    marks: list[tuple[float, float]] = []
    for k in sorted(range(len(xs)), key=lambda k: -own[k]):
        if own[k] < 0.2:
            break
        if 0.8 <= xs[k] <= 99.2 and all(abs(xs[k] - x) >= 6 for x, _ in marks):
            marks.append((round(xs[k], 3), round(100 * (1 - below[k] - own[k] / 2), 1)))
    return tuple(sorted(marks))
