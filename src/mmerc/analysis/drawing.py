"""How figures look: readable at column width, in grey, and the same file from the same data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmerc.storage import atomic_path

COLUMN, PAGE = 3.4, 7.0  # inches: widths of a column and of a page
DPI = 220
INK, MUTED = "#222222", "#8a8a8a"
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.2,
    "hatch.linewidth": 0.5,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mmerc",
}


class Look(NamedTuple):
    """How one series is told from the others, with colour or without."""

    color: str
    marker: str
    line: Any  # a matplotlib line style
    hatch: str


# From dark to light, so that they differ in grey too.
LOOKS = (
    Look("#17365d", "o", "-", ""),
    Look("#c44e2b", "s", (0, (4, 1.5)), "////"),
    Look("#6fa287", "^", (0, (1, 1.2)), "...."),
    Look("#d9a441", "D", (0, (5, 1.2, 1, 1.2)), "xxxx"),
    Look("#8064a2", "v", (0, (3, 1, 1, 1, 1, 1)), "----"),
    Look("#7f7f7f", "P", (0, (2, 2)), "||||"),
)


def look(position: int) -> Look:
    """Return the look of the series at a position; there are six."""
    return LOOKS[position % len(LOOKS)]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches."""
    return Figure(figsize=(width, height))


def save(draw: Callable[[pd.DataFrame], Figure], data: pd.DataFrame, folder: Path, stem: str) -> None:
    """Draw the data and write `stem`.png, `stem`.svg and the data as `stem`.csv into the folder."""
    with mpl.rc_context(STYLE):
        figure = draw(data)
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            with atomic_path(folder / f"{stem}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, dpi=DPI, metadata=metadata)
    with atomic_path(folder / f"{stem}.csv") as temporary:
        data.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def line(
    axes: Axes,
    x: npt.ArrayLike,
    table: pd.DataFrame,
    value: str,
    style: Look,
    *,
    hollow: bool = False,
    scale: float = 1.0,
    **options: Any,
) -> None:
    """Draw the mean of a column of `over_seeds` against x, with its sd as error bars."""
    sd = table[f"{value}_sd"].to_numpy() * scale
    axes.errorbar(
        x,
        table[value].to_numpy() * scale,
        yerr=None if np.isnan(sd).all() else np.nan_to_num(sd),
        color=style.color,
        marker=style.marker,
        linestyle=style.line,
        markerfacecolor="white" if hollow else style.color,
        elinewidth=0.7,
        **options,
    )


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each series' name at the right edge, level with its end, as far as the names do not overlap.

    Args:
        axes: with its limits set
        ends: name, y of the last point, colour
    """
    low, high = axes.get_ylim()
    height = axes.get_position().height * axes.figure.bbox.height / axes.figure.dpi  # inches, about
    gap = 0.14 / height
    order = sorted(range(len(ends)), key=lambda k: ends[k][1])
    place = np.array([(ends[k][1] - low) / (high - low) for k in order])
    for _ in range(100):  # pushes neighbours apart until none overlap
        short = gap - np.diff(place)
        if (short < 1e-6).all():
            break
        push = np.maximum(short, 0) / 2
        place[1:] += push
        place[:-1] -= push
    place -= max(0.0, place[-1] - 1.0)
    for position, k in zip(place, order, strict=True):
        name, _, color = ends[k]
        axes.text(1.02, position, name, color=color, transform=axes.transAxes, va="center", fontsize=7.5)


def bars(
    axes: Axes,
    names: Sequence[str],
    table: pd.DataFrame,
    series: Sequence[tuple[str, str]],
    scale: float = 100.0,
) -> None:
    """Draw groups of bars with their values: a group per row of an `over_seeds` table, a bar per series.

    Args:
        axes: where
        names: of the groups, below them
        table: of `over_seeds`
        series: name and column of each bar
    """
    width = 0.8 / len(series)
    for k, (name, column) in enumerate(series):
        x = np.arange(len(table)) + (k - (len(series) - 1) / 2) * width
        height = table[column].to_numpy() * scale
        sd = np.nan_to_num(table[f"{column}_sd"].to_numpy() * scale)
        style = look(k)
        axes.bar(
            x, height, width * 0.92, label=name, facecolor=style.color if k == 0 else "white",
            edgecolor=style.color, hatch=style.hatch, linewidth=0.8,
        )  # fmt: skip
        if sd.any():
            axes.errorbar(x, height, yerr=sd, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
        for position, value, above in zip(x, height, sd, strict=True):
            axes.text(position, value + above + 1.5, f"{value:.1f}", ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(table)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.spines["left"].set_bounds(0, 100)
    axes.set_xlim(-0.6 - 0.4 * (len(table) == 1), len(table) - 0.4 + 0.4 * (len(table) == 1))
    axes.figure.legend(loc="outside upper center", ncols=len(series))
