from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmerc.analysis.groups import align, over_seeds, per_seed, quantile_groups, score_groups, weighted_f1

finite = st.floats(-10, 10) | st.just(float("nan"))


@given(st.lists(finite, max_size=40), st.integers(1, 12))
def test_groups_are_equal_in_size_and_in_order(values: list[float], count: int) -> None:
    groups = quantile_groups(values, count)
    array = np.array(values, dtype=float)
    assert ((groups == -1) == np.isnan(array)).all()
    known = groups >= 0
    sizes = np.bincount(groups[known], minlength=count)
    assert len(sizes) == count
    assert np.ptp(sizes) <= 1
    for low in range(count - 1):
        below, above = array[groups == low], array[groups == low + 1]
        assert not len(below) or not len(above) or below.max() <= above.min()


def f1_by_hand(truth: list[int], predicted: list[int]) -> float:
    total = 0.0
    for label, support in Counter(truth).items():
        hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        total += support * 2 * hits / (support + sum(p == label for p in predicted))
    return total / len(truth)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_weighted_f1(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = map(list, zip(*pairs, strict=True))
    assert weighted_f1(truth, predicted) == pytest.approx(f1_by_hand(truth, predicted))


def test_scores_of_groups() -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "seed": generator.integers(2, size=60),
            "group": generator.integers(3, size=60),
            "truth": generator.integers(4, size=60),
            "predicted": generator.integers(4, size=60),
            "psi": np.where(generator.random(60) < 0.2, np.nan, generator.random(60)),
        }
    )
    table = score_groups(frame, ["seed", "group"], ["psi"]).set_index(["seed", "group"])
    assert len(table) == 6
    for seed in range(2):
        for group in range(3):
            rows = [r for r in frame.to_dict("records") if (r["seed"], r["group"]) == (seed, group)]
            found = table.loc[seed, group]
            truth, predicted = [r["truth"] for r in rows], [r["predicted"] for r in rows]
            assert found["utterances"] == len(rows)
            assert found["accuracy"] == pytest.approx(np.mean(np.equal(truth, predicted)))
            assert found["weighted_f1"] == pytest.approx(f1_by_hand(truth, predicted))
            assert found["psi"] == pytest.approx(np.mean([r["psi"] for r in rows if r["psi"] == r["psi"]]))


def test_mean_and_spread_over_seeds() -> None:
    table = pd.DataFrame({"seed": [0, 1, 0], "kind": ["b", "b", "a"], "x": [1.0, 3.0, 5.0]})
    found = over_seeds(table, ["kind"])
    assert found["kind"].tolist() == ["b", "a"]
    assert found["seeds"].tolist() == [2, 1]
    assert found["x"].tolist() == [2.0, 5.0]
    assert found["x_sd"][0] == pytest.approx(np.sqrt(2))
    assert np.isnan(found["x_sd"][1])


def test_tables_are_aligned_by_seed_and_row() -> None:
    one = pd.DataFrame({"seed": [0, 0, 1, 1], "row": [4, 5, 4, 5], "x": [1, 2, 3, 4]})
    two = pd.DataFrame({"seed": [1, 1, 2, 0], "row": [5, 4, 4, 5], "x": [40, 30, 9, 20]})
    found = align({"one": one, "two": two})
    assert found["one"]["x"].tolist() == [2, 3, 4]
    assert found["two"]["x"].tolist() == [20, 30, 40]


def test_values_of_one_model() -> None:
    table = pd.DataFrame(
        {"seed": [1, 0, 0], "model": ["a", "a", "b"], "group": [1, 1, 1], "x": [2.0, 1.0, 9.0]}
    )
    assert per_seed(table, "a", "x")[1].tolist() == [1.0, 2.0]
    assert per_seed(table, "c", "x").empty
