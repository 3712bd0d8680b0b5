"""The sentences say what the data says: the opposite data, the opposite sentence."""

import numpy as np
import pandas as pd
import pytest

from mmerc.analysis import (
    agreement,
    calibration,
    confusion,
    context,
    contributions,
    disentanglement,
    reliability,
    speakers,
)
from mmerc.analysis.findings import compared, spread, verdict

HOLDS, FAILS = "the paper's claim holds here", "the paper's claim does not hold here"


def scores(models: dict[str, list[list[float]]], **columns: list[list[float]]) -> pd.DataFrame:
    """A table per seed, model and group from weighted F1 by model and seed; ψ by group is 0.1, 0.2, …"""
    rows = []
    for model, seeds in models.items():
        for seed, values in enumerate(seeds):
            for k, value in enumerate(values):
                row = {"seed": seed, "model": model, "group": k + 1, "weighted_f1": value, "utterances": 9}
                row["psi"] = (k + 1) / 10 + (model == agreement.WITH) * 0.05
                rows.append(row | {name: c[seed][k] + 0.1 * len(model) for name, c in columns.items()})
    return pd.DataFrame(rows)


def test_spread() -> None:
    assert spread([0.5]) == "50.0"
    assert spread([-0.5], sign=True) == "−50.0"
    assert spread([0.4, 0.6], digits=0) == "50 ± 14"
    assert spread([np.nan]) == "unknown"


def test_verdict() -> None:
    assert verdict([0.1, 0.2]) == HOLDS
    assert verdict([-0.1, -0.2]) == FAILS
    assert verdict([0.1, -0.05]) == "the direction is the paper's, but within the spread of the seeds"
    assert verdict([0.1]) == "the direction is the paper's, on a single seed"
    assert "cannot be told" in verdict([np.nan])


def test_compared() -> None:
    assert compared([-2.0, -1.0], "lower", "higher") == "lower"
    assert compared([2.0, 1.0], "lower", "higher") == "higher"
    assert compared([-1.0, 1.0], "lower", "higher") == "neither lower nor higher"
    assert compared([-1.0], "lower", "higher") == "lower"


def test_agreement() -> None:
    low = {agreement.WITH: [[0.5, 0.6], [0.6, 0.6]], agreement.WITHOUT: [[0.4, 0.6], [0.5, 0.6]]}
    text = agreement.describe(scores(low))
    assert f"largest in fifth 1 (+10.0 ± 0.0): {HOLDS}" in text
    assert "ψ is higher with u-DDM in 2 of 2 fifths (0.20 ± 0.00 against 0.15 ± 0.00 on average)" in text
    high = {agreement.WITH: [[0.4, 0.7], [0.5, 0.7]], agreement.WITHOUT: [[0.4, 0.6], [0.5, 0.6]]}
    text = agreement.describe(scores(high))
    assert "largest in fifth 2 (+10.0 ± 0.0), against +0.0 ± 0.0 in fifth 1" in text
    assert text.endswith(f"{FAILS}.")
    worse = {agreement.WITH: [[0.3, 0.4], [0.3, 0.4]], agreement.WITHOUT: [[0.4, 0.6], [0.4, 0.6]]}
    assert FAILS in agreement.describe(scores(worse))  # the smallest loss is no gain
    assert "only a comparison could tell" in agreement.describe(scores({agreement.WITH: low[agreement.WITH]}))


@pytest.mark.parametrize(("sign", "said"), [(1, HOLDS), (-1, FAILS)])
def test_contributions(sign: int, said: str) -> None:
    base = [[0.9, 0.5], [0.9, 0.6]]
    models = {
        contributions.WITH: base,
        contributions.WITHOUT: [[0.9, 0.5 - sign * 0.05], [0.9, 0.6 - sign * 0.06]],
    }
    table = scores(models)
    more = (table["model"] == contributions.WITH) * sign * np.where(table["seed"] == 0, 0.1, 0.12)
    table = table.assign(**{"omega:audio": 0.4 + more, "omega:text": 0.6 - more})
    text = contributions.describe(table)
    assert text.count(said) == 2
    assert f"audio {'+' if sign > 0 else '−'}0.11 ± 0.01" in text
    assert f"text {'−' if sign > 0 else '+'}0.11 ± 0.01" in text
    alone = contributions.describe(table[table["model"] == contributions.WITH])
    assert "only a comparison could tell" in alone


def test_context() -> None:
    models = {
        context.OWN: [[0.6, 0.9], [0.6, 0.9]],
        context.FULL: [[0.5, 0.7], [0.5, 0.7]],
        context.ZERO: [[0.4, 0.8], [0.4, 0.8]],
    }
    text = context.describe(scores(models))
    assert text.count(HOLDS) == 3
    assert "+10.0 ± 0.0 in the lower half and −10.0 ± 0.0 in the upper" in text
    assert "in 2 of 2 groups: the paper's claim holds here" in text
    turned = {name: [seed[::-1] for seed in seeds] for name, seeds in models.items()}
    turned[context.OWN] = [[0.75, 0.2], [0.75, 0.2]]
    text = context.describe(scores(turned))
    assert text.count(FAILS) == 3
    assert "in 0 of 2 groups" in text
    text = context.describe(scores({k: v for k, v in models.items() if k != context.ZERO}))
    assert "not below full context in" in text
    assert "Full minus zero" not in text


def test_disentanglement() -> None:
    def table(modality: float, utterance: float, before: float = 0.5) -> pd.DataFrame:
        rows = [
            {"seed": 0, "vectors": name, "silhouette": x - 0.4, "same_modality": x, "same_utterance": 1 - x}
            for name, x in (("input", before), ("modality", modality), ("utterance", utterance))
        ]
        return pd.DataFrame([*rows, *(row | {"seed": 1} for row in rows)])

    assert disentanglement.describe(table(1.0, 0.3)).count(HOLDS) == 2
    assert disentanglement.describe(table(0.6, 0.9)).count(FAILS) == 2
    text = disentanglement.describe(table(1.0, 0.3, before=0.97))
    assert "the modalities are clusters before DDM already" in text
    only = table(1.0, 0.3)
    assert "utterance level" not in disentanglement.describe(only[only["vectors"] != "utterance"])


@pytest.mark.parametrize(("below", "rank", "holds"), [(0.9, -0.4, 2), (0.3, 0.4, 0)])
def test_reliability(below: float, rank: float, holds: int) -> None:
    rows = [
        {"seed": seed, "modality": name, "below": below, "constant": 0.5, "rank": rank + 0.01 * seed}
        for seed in range(2)
        for name in ("audio", "text", reliability.MEAN)
    ]
    text = reliability.describe(pd.DataFrame(rows))
    assert text.count(HOLDS) == holds
    assert text.count(FAILS) == 2 - holds
    assert f"audio {100 * below:.1f} ± 0.0 % (a constant ω: 50.0 ± 0.0 %)" in text


def test_calibration() -> None:
    def table(gap: float, after: float | None) -> pd.DataFrame:
        stages = [(calibration.BEFORE, 0.1, 1.0)] + ([(calibration.AFTER, after, 1.5)] if after else [])
        return pd.DataFrame(
            [
                {"seed": s, "stage": n, "error": e, "likelihood": 0.5, "gap": gap, "temperature": t}
                for s in range(2)
                for n, e, t in stages
            ]
        )

    assert "surer than right by 5.0" in calibration.describe(table(0.05, 0.02))
    assert "less sure than right by 5.0" in calibration.describe(table(-0.05, 0.02))
    assert "lowers the error: 2.0 ± 0.0 %" in calibration.describe(table(0.05, 0.02))
    assert "raises the error: 20.0 ± 0.0 %" in calibration.describe(table(0.05, 0.2))
    assert "temperature" not in calibration.describe(table(0.05, None))


def test_speakers() -> None:
    def table(met: list[float], new: list[float]) -> pd.DataFrame:
        rows = [
            {"seed": s, "kind": kind, "weighted_f1": x, "utterances": 30}
            for kind, values in ((speakers.MET, met), (speakers.NEW, new))
            for s, x in enumerate(values)
        ]
        return pd.DataFrame(rows)

    assert "others: lower (−20.0" in speakers.describe(table([0.7, 0.8], [0.5, 0.6]))
    assert "others: higher (+20.0" in speakers.describe(table([0.5, 0.6], [0.7, 0.8]))
    assert "No speaker of the test utterances is new" in speakers.describe(table([0.5], []))
    assert "Every speaker is new" in speakers.describe(table([], [0.5]))


def test_confusion() -> None:
    def table(counts: list[list[int]]) -> pd.DataFrame:
        rows = [
            {"seed": 0, "truth": "ab"[i], "predicted": "ab"[j], "count": n, "share": n / max(sum(row), 1)}
            for i, row in enumerate(counts)
            for j, n in enumerate(row)
        ]
        return pd.DataFrame(rows)

    text = confusion.describe(table([[6, 2], [1, 5]]))
    assert "a taken for b: 2 utterances, 25.0 % of a" in text
    assert "Never predicted" not in text
    assert "b taken for a: 6 utterances, 100.0 % of b. Never predicted: b." in confusion.describe(
        table([[8, 0], [6, 0]])
    )
    assert "no utterance is confused" in confusion.describe(table([[6, 0], [0, 5]]))
