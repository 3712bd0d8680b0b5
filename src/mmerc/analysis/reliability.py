"""Figure 11: how well ω predicts the true-class probability, and what that has to do with being right."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, INK, MUTED, Look, line, look, new_figure
from mmerc.analysis.findings import Finding, Skipped, cell, spread, verdict
from mmerc.analysis.frozen_run import FrozenRun
from mmerc.analysis.groups import over_seeds
from mmerc.tables import Grid

STEM, TITLE = "figure-11-reliability", "Figure 11: error of the contributions, and accuracy"
MEAN = "mean"
WIDTH, LAST = 0.05, 10  # of a bin of (ω − TCP)²; the last bin holds all from LAST · WIDTH on
FEWEST = 5  # utterances per seed of a bin whose accuracy is drawn
PAPER = (
    "The paper saw (ω − TCP)² below 0.1 for most utterances, accuracy go up and down with it for single "
    "modalities, and rise as the mean over the modalities falls."
)


def reliability(comparisons: Comparisons) -> Finding | Skipped:
    """Return the finding of Figure 11; it needs a DF-ERC with its contribution-aware fusion."""
    run = comparisons.run
    if not run.hidden:
        return Skipped(STEM, TITLE, "the model is not a DF-ERC and has no teacher of contributions")
    if any(inside.teacher is None for _, inside in run.hidden):
        return Skipped(STEM, TITLE, "the contribution-aware fusion is switched off: there is no teacher")
    errors = contribution_errors(run)
    table = bin_errors(errors)
    data = over_seeds(table, ["modality", "bin", "from", "to"])
    summary = summarise_errors(errors)
    note = f"Accuracy is drawn for bins with {FEWEST} utterances or more; the CSV has all of them."
    return Finding(
        STEM, TITLE, PAPER, describe(summary), data, draw, over_seeds(summary, ["modality"]), grid, (note,)
    )


def contribution_errors(run: FrozenRun) -> pd.DataFrame:
    """Return ω, TCP and (ω − TCP)² per seed, utterance and present modality, and the mean of the last.

    TCP is the probability that the teacher, reading one modality, gives to the true class (eq. 11). The
    rows of the modality `mean` hold the mean error over the modalities of an utterance.
    """
    parts = []
    for member, inside in run.hidden:
        assert inside.teacher is not None
        truth = run.corpus.targets[member.rows].clip(min=0)
        for k, name in enumerate(member.modalities):
            tcp = inside.teacher[k, np.arange(len(truth)), truth]
            parts.append(
                pd.DataFrame({"seed": member.seed, "row": member.rows, "modality": name, "tcp": tcp})
            )
    omegas = [f"omega:{name}" for name in run.modalities]
    omega = run.utterances.melt(["seed", "row", "correct"], omegas, var_name="modality", value_name="omega")
    omega["modality"] = omega["modality"].str.removeprefix("omega:")
    table = omega.dropna().merge(pd.concat(parts), on=["seed", "row", "modality"])
    table["error"] = (table["omega"] - table["tcp"]) ** 2
    mean = table.groupby(["seed", "row"], as_index=False).agg({"correct": "first", "error": "mean"})
    return pd.concat([table, mean.assign(modality=MEAN)], ignore_index=True)


def bin_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """Return share of the utterances, accuracy and count per seed, modality and bin of (ω − TCP)²."""
    table = errors.assign(bin=np.minimum(np.floor(errors["error"] / WIDTH).astype(int), LAST))
    keys = ["seed", "modality", "bin"]
    found = table.groupby(keys)["correct"].agg(["size", "mean"]).reset_index()
    found = found.rename(columns={"size": "utterances", "mean": "accuracy"})
    # A bin that is empty in one seed counts as a share of 0 there, and has no accuracy.
    every = found[["seed", "modality"]].drop_duplicates()
    every = every.merge(pd.DataFrame({"bin": range(LAST + 1)}), how="cross")
    found = every.merge(found, on=keys, how="left")
    found["utterances"] = found["utterances"].fillna(0)
    found["share"] = found["utterances"] / found.groupby(["seed", "modality"])["utterances"].transform("sum")
    found["from"] = found["bin"] * WIDTH
    found["to"] = np.where(found["bin"] == LAST, 1.0, found["from"] + WIDTH)
    return found.sort_values(["modality", "bin"], kind="stable", ignore_index=True)


def summarise_errors(errors: pd.DataFrame) -> pd.DataFrame:
    """Return what counts, per seed and modality.

    `below`: share of errors below 0.1; `constant`: the same if ω were the mean TCP of the modality for every
    utterance; `rank`: Spearman's ρ between the error and being right.
    """
    rows = []
    for (seed, modality), part in errors.groupby(["seed", "modality"]):
        constant = np.nan
        if modality != MEAN:
            constant = float(((part["tcp"] - part["tcp"].mean()) ** 2 < 0.1).mean())
        varies = part["correct"].nunique() > 1 and part["error"].nunique() > 1
        rank = float(spearmanr(part["error"], part["correct"])[0]) if varies else np.nan
        below = float((part["error"] < 0.1).mean())
        rows.append({"seed": seed, "modality": modality, "below": below, "constant": constant, "rank": rank})
    return pd.DataFrame(rows)


def describe(summary: pd.DataFrame) -> str:
    """Say what a table of `summarise_errors` shows."""
    by = {str(name): part for name, part in summary.groupby("modality") if name != MEAN}
    mean = summary[summary["modality"] == MEAN]
    shares = ", ".join(
        f"{name} {spread(part['below'])} % (a constant ω: {spread(part['constant'])} %)"
        for name, part in by.items()
    )
    most = all(part["below"].mean() > 0.5 for part in by.values())
    claim = "holds" if most else "does not hold"
    text = f"Here (ω − TCP)² is below 0.1 for {shares}: the paper's claim {claim} here."
    if mean["rank"].isna().any():
        return text
    return (
        f"{text} Spearman's ρ between its mean over the modalities and being right is "
        f"{spread(mean['rank'], 1, 2)}: {verdict(-mean['rank'])}."
    )


def draw(data: pd.DataFrame) -> Figure:
    """Draw shares (above) and accuracy (below) per bin of (ω − TCP)², a line per modality."""
    figure = new_figure(COLUMN, 3.9)
    upper, lower = figure.subplots(2, 1, sharex=True)
    names = [name for name in data["modality"].unique() if name != MEAN]
    edges = WIDTH * np.arange(LAST + 2)
    for k, name in enumerate([*names, MEAN]):
        part = data[data["modality"] == name]
        style = Look(INK, "o", "-", "") if name == MEAN else look(k)
        width = 1.8 if name == MEAN else 1.0
        upper.stairs(
            100 * part["share"],
            edges,
            baseline=None,
            color=style.color,
            linestyle=style.line,
            linewidth=width,
        )
        kept = part[part["utterances"] >= FEWEST]
        title = "mean over modalities" if name == MEAN else name
        line(
            lower,
            kept["from"] + WIDTH / 2,
            kept,
            "accuracy",
            style,
            scale=100.0,
            linewidth=width,
            label=title,
        )
    ticks = np.arange(0, LAST + 1, 2)
    lower.set_xticks(WIDTH * ticks, [f"{WIDTH * t:.1f}" for t in ticks[:-1]] + [f"{WIDTH * LAST:.1f} +"])
    lower.set_xlim(0, edges[-1])
    lower.set_ylim(0, 104)
    upper.set_ylim(bottom=0)
    upper.axvline(0.1, color=MUTED, linewidth=0.6)
    upper.legend(*lower.get_legend_handles_labels())
    upper.set_ylabel("share of utterances (%)")
    lower.set_ylabel("accuracy (%)")
    lower.set_xlabel("(ω − TCP)²")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table."""
    rows = [
        [str(r["modality"]), cell(r, "below"), cell(r, "constant"), cell(r, "rank", 1.0, 2)]
        for _, r in data.iterrows()
    ]
    header = ["Modality", "Below 0.1 (%)", "Below 0.1, constant ω (%)", "Spearman's ρ with being right"]
    return Grid("(ω − TCP)² on the test utterances", header, rows)
