"""Figure 6: does utterance-level disentanglement help most where the modalities agree least?"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, label_ends, line, look, new_figure
from mmerc.analysis.findings import Finding, Skipped, cell, gain, spread, verdict
from mmerc.analysis.groups import over_seeds, per_seed, quantile_groups, score_groups
from mmerc.tables import Grid

STEM, TITLE = "figure-06-agreement", "Figure 6: utterance-level disentanglement by agreement"
WITH, WITHOUT = "with u-DDM", "without u-DDM"
GROUPS = 5
PAPER = (
    "The paper saw a higher ψ with utterance-level disentanglement (u-DDM) in every fifth of the utterances, "
    "and the largest gain in F1 where ψ is lowest."
)


def agreement(comparisons: Comparisons) -> Finding | Skipped:
    """Return the finding of Figure 6; it needs a run with a ψ."""
    if too_few := no_agreement(comparisons.run.utterances, GROUPS):
        return Skipped(STEM, TITLE, too_few)
    if not comparisons.run.has_branch("utterance"):
        return Skipped(STEM, TITLE, "the run has no utterance-level disentanglement")
    tables, notes = comparisons.beside(WITH, {WITHOUT: "without-utterance"})
    table = agreement_groups(tables, GROUPS)
    data = over_seeds(table, ["model", "group"])
    return Finding(STEM, TITLE, PAPER, describe(table), data, draw, data, grid, tuple(notes))


def no_agreement(utterances: pd.DataFrame, groups: int) -> str | None:
    """Return why the utterances cannot be put into groups by their ψ; None if they can."""
    known = utterances["psi"].notna()
    if not known.any():
        return "the model has no agreement ψ between modalities"
    if known.groupby(utterances["seed"]).sum().min() < groups:
        return f"fewer than {groups} utterances have an agreement ψ"
    return None


def agreement_groups(tables: Mapping[str, pd.DataFrame], count: int) -> pd.DataFrame:
    """Return mean ψ and scores per seed, model and group of utterances.

    The groups are the quantiles of the ψ of the first model, within each seed; utterances without it are
    left out. Groups count from 1, the lowest ψ.

    Args:
        tables: the utterances of each model, aligned
        count: number of groups
    """
    first = next(iter(tables.values()))
    group = 1 + first.groupby("seed")["psi"].transform(lambda psi: quantile_groups(psi, count)).astype(int)
    parts = [table.assign(model=name, group=group)[group > 0] for name, table in tables.items()]
    scores = score_groups(pd.concat(parts), ["seed", "model", "group"], ["psi"])
    order = {name: k for k, name in enumerate(tables)}
    return scores.sort_values("model", key=lambda names: names.map(order), kind="stable")


def describe(table: pd.DataFrame) -> str:
    """Say what a table of `agreement_groups` shows."""
    scores, other = per_seed(table, WITH, "weighted_f1"), per_seed(table, WITHOUT, "weighted_f1")
    lowest, highest = scores.columns[0], scores.columns[-1]
    if other.empty:
        return (
            f"Here weighted F1 is {spread(scores[lowest])} where ψ is lowest and {spread(scores[highest])} "
            "where it is highest; whether u-DDM raises it, only a comparison could tell."
        )
    gains = scores - other
    best = gains.mean().idxmax()
    second = gains.drop(columns=lowest).mean().idxmax()
    margin = gains[lowest] - gains[second] if gains[lowest].mean() > 0 else gains[lowest]
    where = f"in fifth {best} ({gain(gains[best])})"
    where += f", against {gain(gains[lowest])} in fifth 1, where ψ is lowest" if best != lowest else ""
    return f"Here {_psi(table)}the gain in weighted F1 is largest {where}: {verdict(margin)}."


def _psi(table: pd.DataFrame) -> str:
    own, other = per_seed(table, WITH, "psi"), per_seed(table, WITHOUT, "psi")
    if other.empty:  # an ablation may lack the gate
        return ""
    above = int((own.mean() > other.mean()).sum())
    means = f"{spread(own.mean(axis=1), 1, 2)} against {spread(other.mean(axis=1), 1, 2)} on average"
    return f"ψ is higher with u-DDM in {above} of {own.shape[1]} fifths ({means}), and "


def draw(data: pd.DataFrame) -> Figure:
    """Draw ψ (above) and weighted F1 (below) per group, a line per model."""
    figure = new_figure(COLUMN, 3.5)
    axes = figure.subplots(2, 1, sharex=True)
    for panel, value, scale in ((axes[0], "psi", 1.0), (axes[1], "weighted_f1", 100.0)):
        ends = []
        for k, (name, table) in enumerate(data.groupby("model", sort=False)):
            if table[value].notna().any():
                line(panel, table["group"] + 0.06 * k, table, value, look(k), hollow=k > 0, scale=scale)
                ends.append((str(name), float(table[value].iloc[-1]) * scale, look(k).color))
        label_ends(panel, ends)
    axes[0].set_ylabel("mean ψ")
    axes[1].set_ylabel("weighted F1 (%)")
    axes[1].set_xticks(sorted(data["group"].unique()))
    axes[1].set_xlabel("fifth of the utterances (5: highest ψ)")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table."""
    header = ["Model", "Fifth", "Mean ψ", "Weighted F1", "Utterances"]
    rows = [
        [
            r["model"],
            str(r["group"]),
            cell(r, "psi", 1.0, 3),
            cell(r, "weighted_f1"),
            f"{r['utterances']:.0f}",
        ]
        for _, r in data.iterrows()
    ]
    return Grid("Fifths of the utterances by the ψ of the full model", header, rows)
