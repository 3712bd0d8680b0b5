"""Parts of a media file, and the times at which they are looked at. Plain numbers: no decoder is needed."""

import math
from typing import NamedTuple

from mmerc.features.recipe import LONGEST_S


class Span(NamedTuple):
    """A part of a file."""

    start_ms: int = 0
    end_ms: int | None = None  # None: to the end of the file


def sample_times(span: Span, frames_per_second: float) -> list[int]:
    """Return the times in ms at which to look at a span: those of the grid k / fps that lie in it.

    The grid starts with the file, so that overlapping spans share pictures. A span between two points of
    the grid is looked at in its middle, one that is empty not at all; at most `LONGEST_S` are looked at.
    """
    start = max(0, span.start_ms)
    end = start + round(LONGEST_S * 1000)
    if span.end_ms is not None:
        end = min(end, span.end_ms)
    if end <= start:
        return []
    first = math.floor(start * frames_per_second / 1000)
    last = math.ceil(end * frames_per_second / 1000)
    grid = (round(k * 1000 / frames_per_second) for k in range(first, last + 1))
    return sorted({time for time in grid if start <= time < end}) or [(start + end) // 2]
