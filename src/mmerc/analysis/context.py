"""Figure 8: is context worth the more the less the modalities agree, and does the gate make use of it?"""

import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.agreement import agreement_groups, no_agreement
from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, label_ends, line, look, new_figure
from mmerc.analysis.findings import Finding, Skipped, cell, gain, verdict
from mmerc.analysis.groups import over_seeds, per_seed
from mmerc.tables import Grid

STEM, TITLE = "figure-08-context", "Figure 8: context by agreement"
OWN, FULL, ZERO = "CRM", "full context", "zero context"
GROUPS = 10
PAPER = (
    "The paper saw F1 rise with ψ, full context above zero context where ψ is low and below it where ψ is "
    "high, and the context refusion (CRM) above both everywhere."
)


def context(comparisons: Comparisons) -> Finding | Skipped:
    """Return the finding of Figure 8; it needs a run with a ψ."""
    if too_few := no_agreement(comparisons.run.utterances, GROUPS):
        return Skipped(STEM, TITLE, too_few)
    tables, notes = comparisons.beside(OWN, {FULL: "full-context", ZERO: "zero-context"})
    table = agreement_groups(tables, GROUPS)
    data = over_seeds(table, ["model", "group"])
    return Finding(STEM, TITLE, PAPER, describe(table), data, draw, data, grid, tuple(notes))


def describe(table: pd.DataFrame) -> str:
    """Say what the scores of ten groups, by ψ, show."""
    scores = {name: per_seed(table, name, "weighted_f1") for name in (OWN, FULL, ZERO)}
    crm = scores[OWN]
    low, high = crm.columns[: len(crm.columns) // 2], crm.columns[len(crm.columns) // 2 :]
    rise = crm[high].mean(axis=1) - crm[low].mean(axis=1)
    parts = [
        f"Here weighted F1 of the CRM changes by {gain(rise)} from the lower half of ψ to the upper: "
        f"{verdict(rise)}."
    ]
    if not scores[FULL].empty and not scores[ZERO].empty:
        difference = scores[FULL] - scores[ZERO]
        below, above = difference[low].mean(axis=1), difference[high].mean(axis=1)
        crossing = pd.concat([below, -above], axis=1).min(axis=1)
        parts.append(
            f"Full minus zero context is {gain(below)} in the lower half and {gain(above)} in the upper: "
            f"{verdict(crossing)}."
        )
    others = [x for name, x in scores.items() if name != OWN and not x.empty]
    if others:
        rival = pd.concat([x.mean() for x in others], axis=1).max(axis=1)
        best = int((crm.mean() >= rival - 1e-12).sum())
        names = " or ".join(name for name in (FULL, ZERO) if not scores[name].empty)
        claim = "holds here" if best == len(rival) else "does not hold here"
        parts.append(
            f"The CRM is not below {names} in {best} of {len(rival)} groups: the paper's claim {claim}."
        )
    return " ".join(parts)


def draw(data: pd.DataFrame) -> Figure:
    """Draw weighted F1 per tenth of the utterances, a line per model."""
    figure = new_figure(COLUMN, 2.4)
    axes = figure.subplots()
    ends = []
    for k, (name, table) in enumerate(data.groupby("model", sort=False)):
        line(axes, table["group"] + 0.09 * k, table, "weighted_f1", look(k), hollow=k > 0, scale=100.0)
        ends.append((str(name), 100 * float(table["weighted_f1"].iloc[-1]), look(k).color))
    label_ends(axes, ends)
    axes.set_xticks(sorted(data["group"].unique()))
    axes.set_xlabel("tenth of the utterances (10: highest ψ)")
    axes.set_ylabel("weighted F1 (%)")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table: a row per tenth."""
    models = list(dict.fromkeys(data["model"]))
    by = {(r["model"], r["group"]): r for _, r in data.iterrows()}
    groups = sorted(data["group"].unique())
    rows = [
        [str(g), cell(by[OWN, g], "psi", 1.0, 3), *(cell(by[m, g], "weighted_f1") for m in models),
         f"{by[OWN, g]['utterances']:.0f}"]
        for g in groups
    ]  # fmt: skip
    header = ["Tenth", "Mean ψ", *(f"Weighted F1, {m}" for m in models), "Utterances"]
    return Grid("Tenths of the utterances by the ψ of the full model", header, rows)
