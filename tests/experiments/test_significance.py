from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from mmerc.experiments.significance import dialogue_confusions, holm, paired_bootstrap, weighted_f1

LABELS = ("joy", "sadness", "anger")
P_VALUES = st.lists(st.floats(0, 1), max_size=8)


def draw_confusions(rng: np.random.Generator, right: float, truth: np.ndarray, seeds: int = 1) -> np.ndarray:
    """Confusion matrices (S, D, K, K) of a method that is right with chance `right`, else guesses."""
    shape = (seeds, *truth.shape)  # truth: (D, utterances)
    predicted = np.where(rng.random(shape) < right, truth, rng.integers(3, size=shape))
    found = np.zeros((seeds, len(truth), 3, 3), dtype=np.int64)
    s, d, _ = np.indices(shape)
    np.add.at(found, (s, d, np.broadcast_to(truth, shape), predicted), 1)
    return found


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_weighted_f1_is_that_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    confusion = confusion_matrix(truth, predicted, labels=range(3))
    expected = f1_score(truth, predicted, labels=range(3), average="weighted", zero_division=0)
    assert weighted_f1(np.stack([confusion, 3 * confusion])) == pytest.approx([expected] * 2)


def test_nothing_to_score_is_zero() -> None:
    assert weighted_f1(np.zeros((3, 3))) == 0


def test_confusions_of_dialogues_are_counted() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "dialogue_id": rng.choice(["b", "a", "c"], size=40),
            "label": rng.choice([*LABELS, None], size=40),
            "predicted": rng.choice(LABELS, size=40),
        }
    )
    ids, found = dialogue_confusions(table, LABELS)
    assert ids == ["a", "b", "c"]
    expected = np.zeros((3, 3, 3), dtype=int)
    for row in table.itertuples():
        if isinstance(row.label, str):
            expected[ids.index(row.dialogue_id), LABELS.index(row.label), LABELS.index(row.predicted)] += 1
    assert (found == expected).all()


def test_a_label_that_is_not_known() -> None:
    table = pd.DataFrame({"dialogue_id": ["a"], "label": ["fear"], "predicted": ["joy"]})
    with pytest.raises(ValueError, match="other labels than joy, sadness, anger"):
        dialogue_confusions(table, LABELS)


def test_the_bootstrap_is_that_of_plain_loops() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(3, size=(12, 4))
    a, b = draw_confusions(rng, 0.7, truth, seeds=2), draw_confusions(rng, 0.4, truth, seeds=2)
    found = paired_bootstrap(a, b, resamples=60, seed=5)
    differences = []
    for counts in np.random.default_rng(5).multinomial(12, [1 / 12] * 12, size=60):
        means = []
        for method in (a, b):
            scores = []
            for confusions in method:
                total = sum(count * confusion for count, confusion in zip(counts, confusions, strict=True))
                true = np.repeat(range(3), total.sum(axis=1))
                said = np.concatenate([np.repeat(range(3), row) for row in total])
                scores.append(f1_score(true, said, average="weighted", zero_division=0))
            means.append(np.mean(scores))
        differences.append(means[0] - means[1])
    below, above = (sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert found.p == pytest.approx(min(1, 2 * (min(below, above) + 1) / 61))
    assert [found.low, found.high] == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    assert found.value == pytest.approx(
        np.mean(weighted_f1(a.sum(axis=1))) - np.mean(weighted_f1(b.sum(axis=1)))
    )


def test_equal_and_very_different_methods() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(3, size=(40, 5))
    good, bad = draw_confusions(rng, 0.9, truth), draw_confusions(rng, 0.1, truth)
    assert paired_bootstrap(good, good, 500) == (0, 0, 0, 1)
    one, other = paired_bootstrap(good, bad, 500), paired_bootstrap(bad, good, 500)
    assert one.p == other.p == 2 / 501
    assert 0 < one.low < one.value < one.high
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_other_utterances_are_refused() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(3, size=(6, 4))
    found = draw_confusions(rng, 0.5, truth)
    other = draw_confusions(rng, 0.5, rng.permuted(truth, axis=0))
    for wrong in (other, found[:, :5], np.concatenate([found, found])):
        with pytest.raises(ValueError, match="not scored on the same utterances"):
            paired_bootstrap(found, wrong, 10)


def test_p_is_about_uniform_when_nothing_differs() -> None:
    rng = np.random.default_rng(4)
    p = np.empty(200)
    for trial in range(len(p)):
        truth = rng.integers(3, size=(60, 5))
        p[trial] = paired_bootstrap(
            draw_confusions(rng, 0.5, truth), draw_confusions(rng, 0.5, truth), 300, seed=trial
        ).p
    for level in (0.05, 0.2, 0.5, 0.8):
        assert abs((p <= level).mean() - level) < 3.5 * np.sqrt(level * (1 - level) / len(p)) + 0.01


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]


@given(P_VALUES)
def test_holm_by_its_definition(p_values: list[float]) -> None:
    """Hypotheses are rejected from the smallest p on, at α / m, α / (m − 1), …, until one is not."""
    corrected = holm(p_values)
    count = len(p_values)
    for level in (0.01, 0.05, 0.5):
        rejected = set()
        for step, k in enumerate(sorted(range(count), key=p_values.__getitem__)):
            if p_values[k] * (count - step) > level:
                break
            rejected.add(k)
        assert {k for k, p in enumerate(corrected) if p <= level} == rejected


@given(P_VALUES)
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    corrected = holm(p_values)
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert [c for _, c in pairs] == sorted(corrected)
    assert all(p <= c <= 1 for p, c in pairs)


@given(st.lists(st.floats(0, 1), max_size=4))
def test_holm_does_not_depend_on_the_order(p_values: list[float]) -> None:
    expected = dict(zip(p_values, holm(p_values), strict=True))
    for order in permutations(p_values):
        assert holm(order) == [expected[p] for p in order]
