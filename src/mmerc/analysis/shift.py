"""Emotional shift: does the model follow when a speaker's emotion changes, or only when it stays?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, bars, new_figure
from mmerc.analysis.findings import NOT_IN_THE_PAPER, Finding, Skipped, cell, compared, gain, spread
from mmerc.analysis.groups import over_seeds, score_groups
from mmerc.corpus import MISSING, Corpus
from mmerc.tables import Grid

STEM, TITLE = "emotion-shift", "Emotional shift"
SHIFT, SAME, FIRST = "changes", "stays", "first turn"


def shift(comparisons: Comparisons) -> Finding | Skipped:
    """Return the finding on shifts; it needs to know who speaks."""
    run = comparisons.run
    kinds = kinds_of_turn(run.corpus)[run.utterances["row"].to_numpy()]
    known = kinds != None  # noqa: E711  # elementwise
    if not known.any():
        return Skipped(STEM, TITLE, "no utterance of the corpus says who speaks")
    nameless = int((~known).sum()) // len(run.seeds)
    notes = (f"Left out: {nameless} utterances that do not say who speaks.",) if nameless else ()
    table = score_groups(run.utterances.assign(kind=kinds)[known], ["seed", "kind"])
    data = over_seeds(table, ["kind"])
    data = data.set_index("kind").reindex([k for k in (SHIFT, SAME, FIRST) if k in set(data["kind"])])
    data = data.reset_index()
    return Finding(STEM, TITLE, NOT_IN_THE_PAPER, describe(table), data, draw, data, grid, notes)


def kinds_of_turn(corpus: Corpus) -> "np.ndarray[tuple[int], np.dtype[np.object_]]":
    """Return the kind of each utterance, (N,), against its speaker's last labelled one in the dialogue.

    `changes`: another gold emotion; `stays`: the same; `first turn`: the speaker has no labelled one before.
    None where speaker or label are unknown.
    """
    speakers = corpus.utterances["speaker"].tolist()
    kinds = np.full(len(corpus), None, dtype=object)
    for start, stop in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        kinds[start:stop] = _kinds(speakers[start:stop], corpus.targets[start:stop].tolist())
    return kinds


def _kinds(speakers: Sequence[str | None], targets: Sequence[int]) -> list[str | None]:
    last: dict[str, int] = {}
    kinds: list[str | None] = []
    for speaker, target in zip(speakers, targets, strict=True):
        if pd.isna(speaker) or target == MISSING:
            kinds.append(None)
            continue
        before = last.get(speaker)
        kinds.append(FIRST if before is None else SAME if before == target else SHIFT)
        last[speaker] = target
    return kinds


def describe(table: pd.DataFrame) -> str:
    """Say what the scores of the three kinds show."""
    accuracy = table.pivot(index="seed", columns="kind", values="accuracy")
    counts = table.groupby("kind")["utterances"].first()
    parts = [
        f"{spread(accuracy[kind])} % of {counts[kind]} where it {kind}"
        for kind in (SHIFT, SAME)
        if kind in accuracy
    ]
    if FIRST in accuracy:
        parts.append(f"{spread(accuracy[FIRST])} % of {counts[FIRST]} first turns")
    text = f"Here the model is right, by what the speaker's emotion does, in {', '.join(parts)}"
    if SHIFT not in accuracy or SAME not in accuracy:
        missing = SAME if SHIFT in accuracy else SHIFT
        return f"{text}; there is no utterance where it {missing}."
    difference = accuracy[SHIFT] - accuracy[SAME]
    return f"{text}: a shift is {compared(difference, 'harder', 'easier')} ({gain(difference)} points)."


def draw(data: pd.DataFrame) -> Figure:
    """Draw accuracy and weighted F1 of the kinds of turns."""
    figure = new_figure(COLUMN, 2.4)
    axes = figure.subplots()
    names = [f"{r['kind']}\n(n = {r['utterances']:.0f})" for _, r in data.iterrows()]
    bars(axes, names, data, [("accuracy", "accuracy"), ("weighted F1", "weighted_f1")])
    axes.set_ylabel("%")
    axes.set_xlabel("gold emotion against the speaker's last one")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table."""
    rows = [
        [str(r["kind"]), cell(r, "accuracy"), cell(r, "weighted_f1"), f"{r['utterances']:.0f}"]
        for _, r in data.iterrows()
    ]
    header = ["Speaker's emotion", "Accuracy", "Weighted F1", "Utterances"]
    return Grid("Scores by emotional shift (%)", header, rows)
