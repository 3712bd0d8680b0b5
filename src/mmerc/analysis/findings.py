"""A finding: a figure with its data, what the paper saw, and what this run shows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from mmerc.tables import Grid

NOT_IN_THE_PAPER = "Not in the paper."


@dataclass(frozen=True)
class Finding:
    """One analysis, ready to be drawn and written."""

    stem: str  # of its files
    title: str
    paper: str  # what the paper saw
    here: str  # what this run shows
    data: pd.DataFrame  # all that the figure draws
    draw: Callable[[pd.DataFrame], Figure]
    numbers: pd.DataFrame  # a small table of `over_seeds`: the data, or what sums it up
    grid: Callable[[pd.DataFrame], Grid]  # the numbers as text
    notes: tuple[str, ...] = ()  # what is left out, or has to be known


@dataclass(frozen=True)
class Skipped:
    """An analysis that this run does not allow, and why."""

    stem: str
    title: str
    reason: str


def _known(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def spread(values: npt.ArrayLike, scale: float = 100.0, digits: int = 1, sign: bool = False) -> str:
    """Return mean ± sd over the seeds as text; the mean alone for one seed."""
    array = _known(values) * scale
    if not len(array):
        return "unknown"
    mean = f"{array.mean():{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return mean if len(array) < 2 else f"{mean} ± {array.std(ddof=1):.{digits}f}"


def gain(values: npt.ArrayLike) -> str:
    """Return mean ± sd over the seeds of a difference between scores, in points of percent."""
    return spread(values, sign=True)


def verdict(margins: npt.ArrayLike) -> str:
    """Say whether the paper's claim holds, given by how much it does (above 0) in each seed."""
    array = _known(margins)
    if not len(array):
        return "whether the paper's claim holds here cannot be told"
    if array.mean() <= 0:
        return "the paper's claim does not hold here"
    if len(array) < 2:
        return "the direction is the paper's, on a single seed"
    if array.mean() <= array.std(ddof=1):
        return "the direction is the paper's, but within the spread of the seeds"
    return "the paper's claim holds here"


def compared(differences: npt.ArrayLike, below: str, above: str) -> str:
    """Say in which direction a difference goes, given in each seed; neither if it is within their spread."""
    array = _known(differences)
    sd = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    if not len(array) or abs(array.mean()) <= sd:
        return f"neither {below} nor {above}"
    return below if array.mean() < 0 else above


def cell(row: "pd.Series[Any]", name: str, scale: float = 100.0, digits: int = 1) -> str:
    """Return mean ± sd of a column of `over_seeds` as the text of a table's cell; – where there is none."""
    mean, sd = float(row[name]) * scale, float(row[f"{name}_sd"]) * scale
    if np.isnan(mean):
        return "–"
    text = f"{mean:.{digits}f}".replace("-", "−")
    return text if np.isnan(sd) else f"{text} ± {sd:.{digits}f}"
