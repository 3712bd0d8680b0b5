"""Scores of predicted class probabilities: one run, several seeds, and whether two methods differ.

All scores are fractions in [0, 1]; the renderings show percent. Everything but the calibration error
is computed by scikit-learn's definitions, where a ratio with a zero denominator counts as 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.text import Text
from scipy.stats import ttest_rel
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from mmerc.corpus import MISSING
from mmerc.errors import CorpusError
from mmerc.tables import Grid

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassScores:
    """How well one class is recognised; `support` counts the utterances that truly have it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions.

    `macro_f1` is the mean F1 of the classes that occur among the labels or the predictions, as
    scikit-learn and the field's tables have it: a class that is absent from both does not count, one
    that is never recognised counts as 0. `confusion` has a row per true and a column per predicted
    class.
    """

    accuracy: float
    weighted_f1: float
    macro_f1: float
    expected_calibration_error: float
    utterances: int
    per_class: dict[str, ClassScores]  # in label order
    confusion: list[list[int]]  # (K, K)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names in class order."""
        return tuple(self.per_class)

    @property
    def never_predicted(self) -> list[str]:
        """The labels that occur in the data but in no prediction."""
        predicted = np.sum(self.confusion, axis=0)
        pairs = zip(self.per_class.items(), predicted, strict=True)
        return [label for (label, found), count in pairs if found.support and not count]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "never_predicted": self.never_predicted}

    def to_markdown(self) -> str:
        """Return the scores as Markdown: headline, classes, confusion matrix, warnings."""
        return _markdown(_score_grids(self), _score_warnings(self))


class Spread(NamedTuple):
    """Mean over runs, and the sample standard deviation (ddof 1); `sd` is None for a single run."""

    mean: float
    sd: float | None

    def __str__(self) -> str:
        return _percent(self.mean) if self.sd is None else f"{_percent(self.mean)} ± {_percent(self.sd)}"


@dataclass(frozen=True)
class Summary:
    """Scores over several runs of one method, usually its seeds.

    `never_predicted` counts, for each label concerned, the runs that never predict it.
    """

    runs: int
    accuracy: Spread
    weighted_f1: Spread
    macro_f1: Spread
    expected_calibration_error: Spread
    per_class_f1: dict[str, Spread]  # in label order
    never_predicted: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; a spread becomes `{"mean": …, "sd": …}`."""

        def plain(value: Any) -> Any:
            if isinstance(value, Spread):
                return value._asdict()
            return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value

        return {name: plain(value) for name, value in vars(self).items()}

    def to_markdown(self) -> str:
        """Return the summary as Markdown: headline, F1 of the classes, warnings."""
        return _markdown(_summary_grids(self), _summary_warnings(self))


def score(
    probabilities: npt.NDArray[np.floating[Any]], targets: npt.NDArray[np.integer[Any]], labels: Sequence[str]
) -> Scores:
    """Score predicted probabilities against the true classes.

    Args:
        probabilities: (N, K); each row sums to 1. The prediction is the most probable class, the first
            of them in a tie.
        targets: (N,) class indices; utterances with `MISSING` are left out.
        labels: the K label names in class order.

    Raises:
        CorpusError: no utterance has a label.
        ValueError: shapes or class indices that do not fit together, or probabilities that are not finite.
    """
    targets = np.asarray(targets)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    classes = np.arange(len(labels))
    _check(probabilities, targets, labels)
    given = targets != MISSING
    if not given.any():
        raise CorpusError("there is nothing to score: no utterance has a label")
    truth, probabilities = targets[given], probabilities[given]
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=classes, zero_division=0
    )
    confusion = confusion_matrix(truth, predicted, labels=classes)
    occurs = (support + confusion.sum(axis=0)) > 0
    table = zip(precision.tolist(), recall.tolist(), f1.tolist(), support.tolist(), strict=True)
    return Scores(
        accuracy=float((truth == predicted).mean()),
        weighted_f1=float(np.average(f1, weights=support)),
        macro_f1=float(f1[occurs].mean()),
        expected_calibration_error=calibration_error(probabilities.max(axis=1), truth == predicted),
        utterances=len(truth),
        per_class={name: ClassScores(*row) for name, row in zip(labels, table, strict=True)},
        confusion=confusion.tolist(),
    )


def calibration_error(
    confidence: npt.NDArray[np.floating[Any]],
    correct: npt.NDArray[np.bool_],
    bins: int = CALIBRATION_BINS,
) -> float:
    """Expected calibration error (Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 5).

    The utterances fall into `bins` intervals ((m − 1)/bins, m/bins] of equal width by their confidence;
    the error is the mean over utterances of |accuracy − mean confidence| of the bin they are in.

    Args:
        confidence: (N,) probability of the predicted class.
        correct: (N,) whether the prediction is right.
        bins: number of intervals.
    """
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    index = np.searchsorted(inner_edges, confidence, side="left")
    gaps = np.bincount(index, weights=correct - np.asarray(confidence, dtype=np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(index))


def summarise(scores: Sequence[Scores]) -> Summary:
    """Return mean and standard deviation over runs.

    Raises:
        ValueError: no runs, or runs with different labels.
    """
    if not scores:
        raise ValueError("there are no runs to summarise")
    labels = scores[0].labels
    if any(run.labels != labels for run in scores):
        raise ValueError("runs with different labels cannot be summarised together")
    unpredicted = [label for run in scores for label in run.never_predicted]
    return Summary(
        runs=len(scores),
        accuracy=spread([run.accuracy for run in scores]),
        weighted_f1=spread([run.weighted_f1 for run in scores]),
        macro_f1=spread([run.macro_f1 for run in scores]),
        expected_calibration_error=spread([run.expected_calibration_error for run in scores]),
        per_class_f1={label: spread([run.per_class[label].f1 for run in scores]) for label in labels},
        never_predicted={label: unpredicted.count(label) for label in labels if label in unpredicted},
    )


def paired_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the p-value of a two-sided paired t-test over seeds.

    Position i of both holds the score of seed i. Two-sided, because which method is better is not known
    beforehand: "a above b with p < 0.01" means a higher mean *and* a p-value below 0.01. Differences
    that are the same for every seed have no spread to test against: p is 1 if they are zero, else 0.

    Raises:
        ValueError: other than one finite score per seed on both sides, or fewer than two seeds.
    """
    difference = np.subtract(a, b) if len(a) == len(b) else np.empty(0)
    if len(difference) < 2 or not np.isfinite(difference).all():
        raise ValueError(
            f"expected a finite score per seed and at least two seeds, not {list(a)} and {list(b)}"
        )
    tolerance = 1e-12 * max(1.0, float(np.abs([a, b]).max()))  # what subtracting rounds away
    if np.ptp(difference) <= tolerance:
        return 1.0 if np.abs(difference).max() <= tolerance else 0.0
    return float(ttest_rel(a, b).pvalue)


def render(result: Scores | Summary) -> RenderableType:
    """Return the scores of one run, or the summary of several, as tables for the terminal."""
    if isinstance(result, Scores):
        grids, warnings = _score_grids(result), _score_warnings(result)
    else:
        grids, warnings = _summary_grids(result), _summary_warnings(result)
    return Group(
        *(grid.terminal() for grid in grids),
        *(Text(f"Warning: {line}", style="bold yellow") for line in warnings),
    )


def _check(
    probabilities: npt.NDArray[np.floating[Any]], targets: npt.NDArray[np.integer[Any]], labels: Sequence[str]
) -> None:
    if len(set(labels)) != len(labels):
        raise ValueError(f"label names must differ: {', '.join(labels)}")
    if targets.ndim != 1 or probabilities.shape != (len(targets), len(labels)):
        raise ValueError(
            f"probabilities {probabilities.shape} do not fit targets {targets.shape} and {len(labels)} labels"
        )
    if ((targets != MISSING) & ((targets < 0) | (targets >= len(labels)))).any():
        raise ValueError(f"targets must lie in 0…{len(labels) - 1}, or be {MISSING} for no label")
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities hold NaN or infinity")


def spread(values: list[float]) -> Spread:
    """Return mean and sample standard deviation."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


_HEADLINES = ["Accuracy", "Weighted F1", "Macro F1", "Calibration error"]


def _score_grids(scores: Scores) -> list[Grid]:
    headline = [scores.accuracy, scores.weighted_f1, scores.macro_f1, scores.expected_calibration_error]
    classes = [
        [label, _percent(c.precision), _percent(c.recall), _percent(c.f1), str(c.support)]
        for label, c in scores.per_class.items()
    ]
    counts = [[label, *map(str, row)] for label, row in zip(scores.per_class, scores.confusion, strict=True)]
    return [
        Grid(
            "Scores (%)",
            [*_HEADLINES, "Utterances"],
            [[*map(_percent, headline), str(scores.utterances)]],
            named=False,
        ),
        Grid("Classes (%)", ["Class", "Precision", "Recall", "F1", "Support"], classes),
        Grid("Confusion (rows true, columns predicted)", ["", *scores.per_class], counts),
    ]


def _summary_grids(summary: Summary) -> list[Grid]:
    headline = [summary.accuracy, summary.weighted_f1, summary.macro_f1, summary.expected_calibration_error]
    what = "%" if summary.runs == 1 else "%, mean ± sd over runs"
    return [
        Grid(
            f"Scores ({what})",
            [*_HEADLINES, "Runs"],
            [[*map(str, headline), str(summary.runs)]],
            named=False,
        ),
        Grid("Classes (%)", ["Class", "F1"], [[k, str(v)] for k, v in summary.per_class_f1.items()]),
    ]


def _score_warnings(scores: Scores) -> list[str]:
    return [
        f"{label} is never predicted ({scores.per_class[label].support} utterances have it)"
        for label in scores.never_predicted
    ]


def _summary_warnings(summary: Summary) -> list[str]:
    return [
        f"{label} is never predicted in {count} of {summary.runs} runs"
        for label, count in summary.never_predicted.items()
    ]


def _markdown(grids: list[Grid], warnings: list[str]) -> str:
    blocks = [grid.markdown() for grid in grids] + [f"**Warning:** {text}" for text in warnings]
    return "\n\n".join(blocks) + "\n"
