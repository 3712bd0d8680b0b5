"""Reliability diagram: is a prediction of which the model is 80 % sure right in 80 % of the cases?"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.drawing import COLUMN, MUTED, line, look, new_figure
from mmerc.analysis.findings import NOT_IN_THE_PAPER, Finding, cell, compared, spread
from mmerc.analysis.frozen_run import FrozenRun
from mmerc.analysis.groups import over_seeds
from mmerc.analysis.temperature import fit_temperature, negative_log_likelihood, rescale
from mmerc.corpus import MISSING
from mmerc.errors import CorpusError
from mmerc.metrics import CALIBRATION_BINS, calibration_error
from mmerc.tables import Grid

STEM, TITLE = "calibration", "Calibration and temperature"
BEFORE, AFTER = "as trained", "temperature scaled"

Floats = npt.NDArray[np.float64]


def calibration(comparisons: Comparisons) -> Finding:
    """Return the finding on calibration; without validation labels there is no temperature."""
    run = comparisons.run
    temperatures, notes = fit_temperatures(run)
    bins, scores = measure(run, temperatures)
    data = over_seeds(bins, ["stage", "bin"])
    if temperatures is not None and run.split == "validation" and run.members[0].fold is None:
        notes.append("The temperature was fitted on the very utterances that it is measured on.")
    numbers = over_seeds(scores, ["stage"])
    return Finding(STEM, TITLE, NOT_IN_THE_PAPER, describe(scores), data, draw, numbers, grid, tuple(notes))


def fit_temperatures(run: FrozenRun) -> tuple[dict[Path, float] | None, list[str]]:
    """Return the temperature of every checkpoint, fitted on its validation dialogues, or None and why not."""
    found = {}
    for member, checkpoint, examples in run.load():
        try:
            dialogues = member.dialogues(run.corpus, "validation")
        except CorpusError as error:
            return None, [f"Drawn without temperature scaling: {error}."]
        targets = run.corpus.targets[run.corpus.rows(dialogues)]
        given = targets != MISSING
        if not given.any():
            return None, ["Drawn without temperature scaling: no validation utterance has a label."]
        probabilities = checkpoint.pipeline.infer(examples, dialogues).probabilities
        found[member.path] = fit_temperature(probabilities[given], targets[given])
    return found, []


def measure(run: FrozenRun, temperatures: Mapping[Path, float] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the bins, and calibration error and likelihood, per seed and stage (before, after scaling)."""
    bins, scores = [], []
    for evaluation in run.evaluations:
        targets = run.corpus.targets[evaluation.rows]
        given = targets != MISSING
        stages = {BEFORE: (evaluation.probabilities.astype(np.float64), 1.0)}
        if temperatures is not None:
            members = [m for m in run.members if m.seed == evaluation.seed]
            of_row = np.ones(len(run.corpus))
            for member in members:
                of_row[member.rows] = temperatures[member.path]
            scaled = rescale(evaluation.probabilities, of_row[evaluation.rows])
            stages[AFTER] = (scaled, float(np.mean([temperatures[m.path] for m in members])))
        for stage, (probabilities, temperature) in stages.items():
            kept, truth = probabilities[given], targets[given]
            confidence, correct = kept.max(axis=1), kept.argmax(axis=1) == truth
            bins.append(reliability_bins(confidence, correct).assign(seed=evaluation.seed, stage=stage))
            scores.append(
                {
                    "seed": evaluation.seed,
                    "stage": stage,
                    "error": calibration_error(confidence, correct),
                    "likelihood": negative_log_likelihood(kept, truth),
                    "gap": float(confidence.mean() - correct.mean()),
                    "temperature": temperature,
                }
            )
    return pd.concat(bins, ignore_index=True), pd.DataFrame(scores)


def reliability_bins(confidence: Floats, correct: npt.NDArray[np.bool_]) -> pd.DataFrame:
    """Return mean confidence, accuracy, count and share of the bins of `metrics.calibration_error`.

    Bins count from 1; of an empty one confidence and accuracy are NaN.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    number = 1 + np.searchsorted(edges, confidence, side="left")
    frame = pd.DataFrame({"bin": number, "confidence": confidence, "accuracy": correct.astype(float)})
    grouped = frame.groupby("bin")
    table = grouped.mean().assign(utterances=grouped.size())
    table = table.reindex(range(1, CALIBRATION_BINS + 1))
    table["utterances"] = table["utterances"].fillna(0)
    return table.assign(share=table["utterances"] / len(frame)).reset_index()


def describe(scores: pd.DataFrame) -> str:
    """Say what the scores of `measure` show."""
    before, after = (scores[scores["stage"] == stage] for stage in (BEFORE, AFTER))
    gap = before["gap"]
    manner = "surer than right" if gap.mean() > 0 else "less sure than right"
    text = (
        f"Here the model as trained is {manner} by {spread(gap.abs())} points on average, with a calibration "
        f"error of {spread(before['error'])} % and a negative log-likelihood of "
        f"{spread(before['likelihood'], 1, 3)}"
    )
    if after.empty:
        return f"{text}."
    change = after["error"].to_numpy() - before["error"].to_numpy()
    return (
        f"{text}; a temperature of {spread(after['temperature'], 1, 2)} from the validation dialogues "
        f"{compared(change, 'lowers', 'raises')} the error: {spread(after['error'])} % and "
        f"{spread(after['likelihood'], 1, 3)}."
    )


def draw(data: pd.DataFrame) -> Figure:
    """Draw accuracy against confidence (above) and the share of utterances (below), before and after."""
    figure = new_figure(COLUMN, 4.1)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8)
    upper.text(97, 99, "perfect", color=MUTED, ha="right", va="bottom", fontsize=7, rotation=0)
    for k, (stage, part) in enumerate(data.groupby("stage", sort=False)):
        part = part.sort_values("bin")
        known = part[part["accuracy"].notna()]
        line(
            upper,
            100 * known["confidence"],
            known,
            "accuracy",
            look(k),
            hollow=k > 0,
            scale=100.0,
            label=stage,
        )
        edges = 100 * np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
        lower.stairs(100 * part["share"], edges, color=look(k).color, linestyle=look(k).line, linewidth=1.1)
    upper.set_ylim(0, 106)
    upper.set_xlim(0, 101)
    upper.legend(loc="upper left")
    upper.set_ylabel("accuracy (%)")
    lower.set_ylabel("share (%)")
    lower.set_ylim(bottom=0)
    lower.set_xlabel("probability of the predicted emotion (%)")
    return figure


def grid(data: pd.DataFrame) -> Grid:
    """Return the small table."""
    rows = [
        [str(r["stage"]), cell(r, "temperature", 1.0, 2), cell(r, "error"), cell(r, "likelihood", 1.0, 3)]
        for _, r in data.iterrows()
    ]
    header = ["Probabilities", "Temperature", "Calibration error (%)", "Negative log-likelihood"]
    return Grid("Calibration on the test utterances", header, rows)
