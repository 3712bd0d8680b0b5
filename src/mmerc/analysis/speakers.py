"""Speaker transfer: is the model as good on people whom it has not met in training?"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, bars, new_figure
from mmerc.analysis.findings import NOT_IN_THE_PAPER, Finding, Skipped, cell, compared, gain, spread
from mmerc.analysis.frozen_run import FrozenRun
from mmerc.analysis.groups import over_seeds, score_groups
from mmerc.errors import CorpusError
from mmerc.tables import Grid

STEM, TITLE = "speakers", "Speakers met and not met in training"
MET, NEW = "met in training", "not met"


def speakers(comparisons: Comparisons) -> Finding | Skipped:
    """Return the finding on speakers; it needs the names of speakers and the training dialogues."""
    run = comparisons.run
    trained_on = {member.trained_on for member in run.members} - {run.corpus.name}
    if trained_on:
        other = ", ".join(sorted(trained_on))
        return Skipped(
            STEM, TITLE, f"the model was trained on another corpus ({other}): its speakers are unknown"
        )
    if run.utterances["speaker"].isna().all():
        return Skipped(STEM, TITLE, "no utterance of the corpus says who speaks")
    names = run.corpus.utterances["speaker"].dropna().unique()
    if len(names) == 1:
        return Skipped(
            STEM, TITLE, f"all speakers of the corpus have one name ({names[0]}): a role, not a person"
        )
    try:
        table = score_groups(familiar(run), ["seed", "kind"])
    except CorpusError as error:
        return Skipped(STEM, TITLE, f"the training dialogues are not there: {error}")
    nameless = int(run.utterances["speaker"].isna().sum()) // len(run.seeds)
    notes = (f"Left out: {nameless} utterances that do not say who speaks.",) if nameless else ()
    data = over_seeds(table, ["kind"]).sort_values("kind", ignore_index=True)
    return Finding(STEM, TITLE, NOT_IN_THE_PAPER, describe(table), data, draw, data, grid, notes)


def familiar(run: FrozenRun) -> pd.DataFrame:
    """Return the utterances whose speaker is known, with a column `kind`: met in training, or not.

    Names are compared as they are written. In cross-validation the training dialogues are those of the
    checkpoint that predicts the utterance.

    Raises:
        CorpusError: the corpus has no training dialogues.
    """
    names = run.corpus.utterances["speaker"]
    parts = []
    for member in run.members:
        met = set(names.iloc[run.corpus.rows(member.dialogues(run.corpus, "train"))].dropna())
        kind = np.where(names.iloc[member.rows].isin(met), MET, NEW)
        parts.append(pd.DataFrame({"seed": member.seed, "row": member.rows, "kind": kind}))
    known = run.utterances[run.utterances["speaker"].notna()]
    return known.merge(pd.concat(parts), on=["seed", "row"])


def describe(table: pd.DataFrame) -> str:
    """Say what the scores of both kinds of speakers show."""
    f1 = table.pivot(index="seed", columns="kind", values="weighted_f1")
    counts = table.groupby("kind")["utterances"].mean()
    if len(f1.columns) < 2:
        only = f1.columns[0]
        absent = "No speaker of the test utterances is new" if only == MET else "Every speaker is new"
        return (
            f"{absent} here: weighted F1 is {spread(f1[only])} on {counts[only]:.0f} utterances, and "
            "there is nothing to compare it with."
        )
    difference = f1[NEW] - f1[MET]
    manner = compared(difference, "lower", "higher")
    return (
        f"Here weighted F1 is {spread(f1[MET])} on {counts[MET]:.0f} utterances of speakers met in training "
        f"and {spread(f1[NEW])} on {counts[NEW]:.0f} of others: {manner} ({gain(difference)})."
    )


def draw(data: pd.DataFrame) -> Figure:
    """Draw accuracy and weighted F1 of both kinds of speakers."""
    figure = new_figure(COLUMN, 2.3)
    axes = figure.subplots()
    names = [f"{r['kind']}\n(n = {r['utterances']:.0f})" for _, r in data.iterrows()]
    bars(axes, names, data, [("accuracy", "accuracy"), ("weighted F1", "weighted_f1")])
    axes.set_ylabel("%")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table."""
    rows = [
        [str(r["kind"]), cell(r, "accuracy"), cell(r, "weighted_f1"), f"{r['utterances']:.0f}"]
        for _, r in data.iterrows()
    ]
    return Grid("Scores by speaker (%)", ["Speaker", "Accuracy", "Weighted F1", "Utterances"], rows)
