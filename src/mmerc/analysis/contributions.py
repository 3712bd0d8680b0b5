"""Figure 7: does modality-level disentanglement raise audio and video where the model is at a loss?

The paper does not say whose cross-entropy sorts the utterances. Sorted by the model without m-DDM, the
worst quarter is the one where *it* happens to fail, and any other model looks better there; sorted by the
full model, the reverse. So the mean of both sorts them, and the gains of the one-sided sortings are told.
"""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, INK, Look, label_ends, line, look, new_figure
from mmerc.analysis.findings import Finding, Skipped, cell, gain, spread, verdict
from mmerc.analysis.groups import omega_columns, over_seeds, per_seed, quantile_groups, score_groups
from mmerc.tables import Grid

STEM, TITLE = "figure-07-contributions", "Figure 7: modality-level disentanglement by difficulty"
WITH, WITHOUT = "with m-DDM", "without m-DDM"
GROUPS = 4
PAPER = (
    "The paper saw modality-level disentanglement (m-DDM) raise the contributions of audio and video, most "
    "where the cross-entropy is high, and F1 by about 5 points in the worst quarter."
)


def contributions(comparisons: Comparisons) -> Finding | Skipped:
    """Return the finding of Figure 7; it needs contributions that differ between utterances."""
    run = comparisons.run
    if not run.has_branch("modality"):
        return Skipped(STEM, TITLE, "the run has no modality-level disentanglement")
    omega = run.utterances[omega_columns(run.utterances)]
    if not (omega.max(axis=1) > omega.min(axis=1)).any():
        return Skipped(STEM, TITLE, "the model does not weigh the modalities of an utterance")
    if run.utterances.groupby("seed").size().min() < GROUPS:
        return Skipped(STEM, TITLE, f"there are fewer than {GROUPS} utterances")
    tables, notes = comparisons.beside(WITH, {WITHOUT: "without-modality"})
    if len(tables) > 1:
        by_one = {name: difficulty_groups(tables, sort_by=(name,)) for name in tables}
        gains = {name: _gain_in_last(table) for name, table in by_one.items()}
        notes.append(
            "Quarters by the mean cross-entropy of both models. Sorted by one of them, the worst quarter "
            f"collects its own mistakes: the gain there would read {gain(gains[WITHOUT])} (by the model "
            f"without m-DDM) or {gain(gains[WITH])} (by the one with it)."
        )
    table = difficulty_groups(tables, tuple(tables))
    data = over_seeds(table, ["model", "group"])
    return Finding(STEM, TITLE, PAPER, describe(table), data, draw, data, grid, tuple(notes))


def difficulty_groups(tables: Mapping[str, pd.DataFrame], sort_by: tuple[str, ...]) -> pd.DataFrame:
    """Return mean ω of each modality and scores per seed, model and quarter of the utterances.

    The quarters are those of the mean cross-entropy of the models in `sort_by`, within each seed; they count
    from 1, the lowest. ω is averaged where the modality is present.

    Args:
        tables: the utterances of each model, aligned
        sort_by: names of models
    """
    first = next(iter(tables.values()))
    entropy = pd.concat([tables[name]["cross_entropy"] for name in sort_by], axis=1).mean(axis=1)
    group = 1 + entropy.groupby(first["seed"]).transform(lambda x: quantile_groups(x, GROUPS)).astype(int)
    parts = [table.assign(model=name, group=group) for name, table in tables.items()]
    scores = score_groups(pd.concat(parts), ["seed", "model", "group"], omega_columns(first))
    order = {name: k for k, name in enumerate(tables)}
    return scores.sort_values("model", key=lambda names: names.map(order), kind="stable")


def describe(table: pd.DataFrame) -> str:
    """Say what a table of `difficulty_groups` shows."""
    names = [name.removeprefix("omega:") for name in omega_columns(table)]
    own = {m: per_seed(table, WITH, f"omega:{m}") for m in names}
    first, last = own[names[0]].columns[[0, -1]]
    if table["model"].nunique() < 2:
        parts = [f"{m} from {spread(x[first], 1, 2)} to {spread(x[last], 1, 2)}" for m, x in own.items()]
        return (
            f"Here, from the easiest to the hardest quarter, mean ω goes for {', '.join(parts)}; what m-DDM "
            "does to it, only a comparison could tell."
        )
    rises = {m: x - per_seed(table, WITHOUT, f"omega:{m}") for m, x in own.items()}
    weak = [m for m in names if m != "text"]
    rise = pd.concat([rises[m][last] for m in weak], axis=1).min(axis=1)
    omegas = ", ".join(f"{m} {spread(x[last], 1, 2, sign=True)}" for m, x in rises.items())
    lift = _gain_in_last(table)
    return (
        f"Here, in the hardest quarter, m-DDM changes mean ω by {omegas}: {verdict(rise)}. Weighted F1 "
        f"changes there by {gain(lift)}: {verdict(lift)}."
    )


def _gain_in_last(table: pd.DataFrame) -> "pd.Series[float]":
    gains = per_seed(table, WITH, "weighted_f1") - per_seed(table, WITHOUT, "weighted_f1")
    return gains[gains.columns[-1]]


def draw(data: pd.DataFrame) -> Figure:
    """Draw mean ω of each modality (above) and weighted F1 (below) per quarter; hollow: without m-DDM."""
    figure = new_figure(COLUMN, 4.2)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    omegas = omega_columns(data)
    ends, below = [], []
    for k, (model, table) in enumerate(data.groupby("model", sort=False)):
        dash, width = ("-", 1.3) if k == 0 else ((0, (4, 2)), 0.9)
        x = table["group"] + 0.05 * k
        for position, name in enumerate(omegas):
            style = look(position)._replace(line=dash)
            line(axes[0], x, table, name, style, hollow=k > 0, linewidth=width)
            if k == 0:
                ends.append((name.removeprefix("omega:"), float(table[name].iloc[-1]), style.color))
        style = Look(INK, "o", dash, "")
        line(axes[1], x, table, "weighted_f1", style, hollow=k > 0, scale=100.0, linewidth=width)
        below.append((str(model), 100 * float(table["weighted_f1"].iloc[-1]), style.color))
    label_ends(axes[0], ends)
    label_ends(axes[1], below)
    axes[0].set_ylabel("mean ω")
    axes[1].set_ylabel("weighted F1 (%)")
    axes[1].set_xticks(sorted(data["group"].unique()))
    axes[1].set_xlabel("quarter by cross-entropy (4: highest)")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table."""
    omegas = omega_columns(data)
    header = [
        "Model",
        "Quarter",
        *(f"ω {m.removeprefix('omega:')}" for m in omegas),
        "Weighted F1",
        "Utterances",
    ]
    rows = [
        [r["model"], str(r["group"]), *(cell(r, m, 1.0, 3) for m in omegas), cell(r, "weighted_f1"),
         f"{r['utterances']:.0f}"]
        for _, r in data.iterrows()
    ]  # fmt: skip
    return Grid("Quarters of the utterances by cross-entropy", header, rows)
