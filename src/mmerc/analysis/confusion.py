"""Confusion matrix: which emotion is taken for which."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, INK, new_figure
from mmerc.analysis.findings import NOT_IN_THE_PAPER, Finding, spread
from mmerc.analysis.frozen_run import FrozenRun
from mmerc.analysis.groups import over_seeds
from mmerc.tables import Grid

STEM, TITLE = "confusion", "Confusion matrix"


def confusion(comparisons: Comparisons) -> Finding:
    """Return the finding on confusions."""
    table = confusions(comparisons.run)
    data = over_seeds(table, ["truth", "predicted"])
    several = " (mean over seeds)" if len(comparisons.run.seeds) > 1 else ""
    note = f"Shade: share of the row, which is a true emotion. Numbers: utterances{several}."
    return Finding(STEM, TITLE, NOT_IN_THE_PAPER, describe(table), data, draw, data, grid, (note,))


def confusions(run: FrozenRun) -> pd.DataFrame:
    """Return count and share of its row per seed, true and predicted label; no share in an empty row."""
    rows = []
    for evaluation in run.evaluations:
        counts = np.array(evaluation.scores.confusion)
        for truth, of_truth in zip(run.corpus.labels, counts, strict=True):
            for predicted, count in zip(run.corpus.labels, of_truth, strict=True):
                share = count / of_truth.sum() if of_truth.sum() else np.nan
                rows.append((evaluation.seed, truth, predicted, float(count), share))
    return pd.DataFrame(rows, columns=["seed", "truth", "predicted", "count", "share"])


def describe(table: pd.DataFrame) -> str:
    """Say which confusion is the most frequent, and which labels are never predicted."""
    wrong = table[table["truth"] != table["predicted"]]
    mean = wrong.groupby(["truth", "predicted"], sort=False)["count"].mean()
    if mean.max() == 0:
        return "Here no utterance is confused."
    most = mean.reset_index().loc[mean.to_numpy().argmax()]
    truth, predicted = most["truth"], most["predicted"]
    worst = wrong[(wrong["truth"] == truth) & (wrong["predicted"] == predicted)]
    text = (
        f"Here the most frequent confusion is {truth} taken for {predicted}: "
        f"{spread(worst['count'], 1, 0)} utterances, {spread(worst['share'])} % of {truth}."
    )
    support = table.groupby("truth", sort=False)["count"].sum()
    hits = table.groupby("predicted", sort=False)["count"].sum()
    never = [name for name in support.index if support[name] and not hits[name]]
    return f"{text} Never predicted: {', '.join(never)}." if never else text


def draw(data: pd.DataFrame) -> Figure:
    """Draw the matrix: shade by share of the row, counts in the cells."""
    labels = list(dict.fromkeys(data["truth"]))
    shares = data["share"].to_numpy().reshape(len(labels), -1)
    counts = data["count"].to_numpy().reshape(len(labels), -1)
    side = max(COLUMN, 0.36 * len(labels) + 1.0)
    figure = new_figure(side, side * 0.95)
    axes = figure.subplots()
    axes.imshow(np.nan_to_num(shares), cmap="Greys", vmin=0, vmax=1.15)
    for (i, j), count in np.ndenumerate(counts):
        dark = np.nan_to_num(shares[i, j]) > 0.55
        text = f"{count:.0f}" if count >= 100 else f"{round(float(count), 1):g}"
        axes.text(j, i, text if count else "·", ha="center", va="center", fontsize=6.5,
                  color="white" if dark else INK)  # fmt: skip
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table: what is right, and the most frequent confusion of each label."""
    rows = []
    for truth, row in data.groupby("truth", sort=False):
        support = row["count"].sum()
        hit = row.loc[row["predicted"] == truth, "share"].iloc[0]
        others = row[row["predicted"] != truth].sort_values("count", ascending=False, kind="stable").iloc[0]
        mistaken = f"{others['predicted']} ({100 * others['share']:.1f})" if others["count"] else "–"
        rows.append([str(truth), f"{support:.0f}", f"{100 * hit:.1f}" if support else "–", mistaken])
    return Grid("Labels (%)", ["Label", "Utterances", "Recognised", "Most often taken for"], rows)
