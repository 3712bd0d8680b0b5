from collections.abc import Callable
from dataclasses import FrozenInstanceError
from io import StringIO
from math import nan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console
from scipy import stats

from mmerc.corpus import MISSING
from mmerc.errors import CorpusError
from mmerc.metrics import Scores, Spread, calibration_error, paired_test, render, score, summarise

LABELS = ["neutral", "joy", "anger", "fear"]


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities, targets with at least one label, label names."""
    count, classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    weights = draw(hnp.arrays(np.float64, (count, classes), elements=st.floats(0.01, 1)))
    targets = draw(hnp.arrays(np.int64, count, elements=st.integers(MISSING, classes - 1)))
    targets[draw(st.integers(0, count - 1))] = draw(st.integers(0, classes - 1))
    return weights / weights.sum(axis=1, keepdims=True), targets, [f"class {k}" for k in range(classes)]


def one_hot(predicted: list[int], confidence: float = 1.0) -> np.ndarray:
    others = (1 - confidence) / (len(LABELS) - 1)
    return np.where(np.eye(len(LABELS))[predicted] == 1, confidence, others)


def by_loops(probabilities: np.ndarray, targets: np.ndarray, labels: list[str]) -> dict[str, Any]:
    """All scores, counted one utterance at a time."""
    classes = range(len(labels))
    confusion = [[0 for _ in classes] for _ in classes]
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, target in zip(probabilities.tolist(), targets.tolist(), strict=True):
        if target == MISSING:
            continue
        predicted = max(classes, key=lambda k: row[k])
        confusion[target][predicted] += 1
        place = next(m for m in range(15) if row[predicted] <= (m + 1) / 15 or m == 14)
        bins[place].append((row[predicted], predicted == target))
    total = sum(map(sum, confusion))
    f1s, supports, occurring = [], [], []
    for k in classes:
        true, found = sum(confusion[k]), sum(confusion[t][k] for t in classes)
        hits = confusion[k][k]
        precision, recall = hits / found if found else 0.0, hits / true if true else 0.0
        f1s.append(2 * precision * recall / (precision + recall) if hits else 0.0)
        supports.append(true)
        if true or found:
            occurring.append(f1s[-1])
    gap = sum(abs(sum(hit for _, hit in b) - sum(c for c, _ in b)) for b in bins)
    return {
        "accuracy": sum(confusion[k][k] for k in classes) / total,
        "weighted_f1": sum(f * s for f, s in zip(f1s, supports, strict=True)) / total,
        "macro_f1": sum(occurring) / len(occurring),
        "expected_calibration_error": gap / total,
        "f1": f1s,
        "confusion": confusion,
        "utterances": total,
    }


@given(predictions())
def test_agrees_with_plain_loops(case: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    scores, expected = score(*case), by_loops(*case)
    for name in ("accuracy", "weighted_f1", "macro_f1", "expected_calibration_error"):
        assert getattr(scores, name) == pytest.approx(expected[name], abs=1e-12)
    assert [c.f1 for c in scores.per_class.values()] == pytest.approx(expected["f1"])
    assert scores.confusion == expected["confusion"]
    assert scores.utterances == expected["utterances"]


@given(predictions(), st.randoms(use_true_random=False))
def test_order_of_the_utterances_does_not_matter(
    case: tuple[np.ndarray, np.ndarray, list[str]], random: Any
) -> None:
    probabilities, targets, labels = case
    order = list(range(len(targets)))
    random.shuffle(order)
    one, other = score(*case), score(probabilities[order], targets[order], labels)
    assert one.confusion == other.confusion
    assert one.per_class == other.per_class
    assert one.expected_calibration_error == pytest.approx(other.expected_calibration_error, abs=1e-12)


@given(predictions())
def test_bounds_and_identities(case: tuple[np.ndarray, np.ndarray, list[str]]) -> None:
    scores = score(*case)
    assert scores.accuracy == pytest.approx(np.trace(scores.confusion) / scores.utterances)
    assert 0 <= scores.expected_calibration_error <= 1
    assert 0 <= scores.macro_f1 <= 1
    assert sum(c.support for c in scores.per_class.values()) == scores.utterances
    # the mean recall, weighted by support, is the accuracy
    recall = sum(c.recall * c.support for c in scores.per_class.values()) / scores.utterances
    assert recall == pytest.approx(scores.accuracy)


def test_golden_example() -> None:
    #            right      right      wrong      right      wrong
    predicted, targets = [0, 0, 0, 1, 1], np.array([0, 0, 1, 1, 2])
    scores = score(one_hot(predicted, 0.7), targets, LABELS)
    assert scores.accuracy == pytest.approx(0.6)
    assert scores.per_class["neutral"].precision == pytest.approx(2 / 3)
    assert scores.per_class["neutral"].f1 == pytest.approx(0.8)
    assert scores.per_class["joy"].f1 == pytest.approx(0.5)
    assert scores.weighted_f1 == pytest.approx((2 * 0.8 + 2 * 0.5 + 0) / 5)
    assert scores.macro_f1 == pytest.approx((0.8 + 0.5 + 0) / 3)  # fear is in neither, so it does not count
    assert scores.expected_calibration_error == pytest.approx(0.1)
    assert scores.confusion == [[2, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert scores.never_predicted == ["anger"]


def test_a_class_that_is_predicted_but_never_true_lowers_macro_f1() -> None:
    assert score(one_hot([0, 3]), np.array([0, 0]), LABELS).macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_perfect_predictions() -> None:
    scores = score(one_hot([0, 1, 2, 3, 3]), np.array([0, 1, 2, 3, 3]), LABELS)
    assert scores.accuracy == scores.weighted_f1 == scores.macro_f1 == 1
    assert scores.expected_calibration_error == 0
    assert scores.never_predicted == []


def test_constant_predictions() -> None:
    scores = score(one_hot([1] * 8, 0.4), np.arange(8) % 4, LABELS)
    assert scores.accuracy == 0.25
    assert scores.never_predicted == ["neutral", "anger", "fear"]
    assert scores.expected_calibration_error == pytest.approx(0.15)


def test_perfectly_calibrated_predictions_have_no_calibration_error() -> None:
    confidence = np.repeat([0.25, 0.5, 0.75], 4)
    correct = np.array([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0], dtype=bool)
    assert calibration_error(confidence, correct) == 0


def test_a_bin_holds_its_upper_edge() -> None:
    # 3/15 lies in (2/15, 3/15] with 0.19: their gaps −0.2 and +0.81 meet there
    assert calibration_error(np.array([3 / 15, 0.19]), np.array([False, True])) == pytest.approx(0.61 / 2)
    assert calibration_error(np.array([3 / 15, 0.21]), np.array([False, True])) == pytest.approx(0.99 / 2)


def test_unlabelled_utterances_are_left_out() -> None:
    probabilities = one_hot([0, 1, 2])
    some = score(probabilities, np.array([0, MISSING, 1]), LABELS)
    assert some == score(probabilities[[0, 2]], np.array([0, 1]), LABELS)
    with pytest.raises(CorpusError, match="no utterance has a label"):
        score(probabilities, np.full(3, MISSING), LABELS)
    with pytest.raises(CorpusError, match="no utterance has a label"):
        score(np.empty((0, 4)), np.empty(0, dtype=int), LABELS)


@pytest.mark.parametrize(
    ("probabilities", "targets", "labels", "message"),
    [
        (one_hot([0, 1]), [0], LABELS, "do not fit"),
        (one_hot([0]), [0], LABELS[:3], "do not fit"),
        (one_hot([0]), [4], LABELS, "0…3"),
        (one_hot([0]), [-2], LABELS, "0…3"),
        (one_hot([0]) * nan, [0], LABELS, "NaN"),
        (one_hot([0]), [0], ["joy", "joy", "anger", "fear"], "must differ"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    probabilities: np.ndarray, targets: list[int], labels: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(probabilities, np.array(targets), labels)


def test_scores_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        run(0).accuracy = 1.0  # type: ignore[misc]  # what the test is about


def run(seed: int) -> Scores:
    """Scores of random predictions; fear is never among them."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(3), size=60)
    return score(np.c_[probabilities, np.zeros(60)], generator.integers(0, 4, 60), LABELS)


def test_summary_holds_mean_and_sample_deviation() -> None:
    runs = [run(seed) for seed in range(4)]
    summary = summarise(runs)
    accuracies = [r.accuracy for r in runs]
    mean = sum(accuracies) / 4
    assert summary.accuracy.mean == pytest.approx(mean)
    assert summary.accuracy.sd == pytest.approx(sqrt(sum((a - mean) ** 2 for a in accuracies) / 3))
    assert summary.per_class_f1["joy"].mean == pytest.approx(np.mean([r.per_class["joy"].f1 for r in runs]))
    assert summary.runs == 4
    assert summary.never_predicted == {"fear": 4}


def test_summary_of_one_run_has_no_deviation() -> None:
    summary = summarise([run(0)])
    assert summary.macro_f1 == Spread(run(0).macro_f1, None)
    assert "±" not in summary.to_markdown()


def test_runs_that_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="no runs"):
        summarise([])
    with pytest.raises(ValueError, match="different labels"):
        summarise([run(0), score(np.eye(2), np.array([0, 1]), ["a", "b"])])


def test_to_dict_is_ready_for_json() -> None:
    data = run(0).to_dict()
    assert data["per_class"]["joy"].keys() == {"precision", "recall", "f1", "support"}
    assert data["never_predicted"] == ["fear"]
    summary = summarise([run(0), run(1)]).to_dict()
    assert summary["per_class_f1"]["joy"].keys() == {"mean", "sd"}
    for value in (data, summary):
        assert all(type(leaf) in (int, float, str) for leaf in leaves(value))


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [value]


def terminal(result: Any) -> str:
    console = Console(file=StringIO(), width=100)
    console.print(render(result))
    return console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO from above


def markdown(result: Any) -> str:
    return str(result.to_markdown())


@pytest.mark.parametrize("show", [terminal, markdown])
def test_renderings_show_percent_and_warn(show: Callable[[Any], str]) -> None:
    scores = score(one_hot([0, 0, 0, 1, 1], 0.7), np.array([0, 0, 1, 1, 2]), LABELS)
    text = show(scores)
    for part in ("60.00", "52.00", "43.33", "10.00", "66.67", "Confusion", "anger is never predicted"):
        assert part in text
    assert "fear is never" not in text
    text = show(summarise([scores, scores]))
    assert "43.33 ± 0.00" in text
    assert "anger is never predicted in 2 of 2 runs" in text


@pytest.mark.parametrize("show", [terminal, markdown])
def test_renderings_survive_markup_in_a_label(show: Callable[[Any], str]) -> None:
    text = show(score(np.eye(2), np.array([0, 0]), ["[bold]", "a|b"]))
    assert "[bold]" in text
    assert "a|b" in text.replace(r"a\|b", "a|b")


def test_markdown_tables_have_equal_cells_in_each_row() -> None:
    blocks = run(0).to_markdown().split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_paired_test_is_the_two_sided_t_test() -> None:
    a, b = [0.61, 0.63, 0.60, 0.64, 0.62], [0.58, 0.61, 0.59, 0.60, 0.60]
    difference = np.subtract(a, b)
    t = difference.mean() / (difference.std(ddof=1) / sqrt(5))
    assert paired_test(a, b) == pytest.approx(2 * stats.t.sf(abs(t), df=4))
    assert paired_test(a, b) == pytest.approx(paired_test(b, a))


def test_paired_test_without_spread() -> None:
    assert paired_test([0.6, 0.7, 0.8], [0.6, 0.7, 0.8]) == 1
    assert paired_test([0.6, 0.7, 0.8], [0.5, 0.6, 0.7]) == 0  # 0.1 each, up to rounding


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([0.5], [0.4]), ([0.5, 0.6], [0.5]), ([0.5, nan], [0.4, 0.3])]
)
def test_paired_test_refuses_scores_that_are_not_pairs(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two seeds"):
        paired_test(a, b)
