"""Whether two methods differ: a paired bootstrap over dialogues, and Holm's correction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

RESAMPLES = 10_000


class Difference(NamedTuple):
    """A difference of weighted F1 between two methods on the same utterances."""

    value: float  # first minus second
    low: float  # 95 % interval of the bootstrap
    high: float
    p: float  # two-sided


def dialogue_confusions(
    table: pd.DataFrame, labels: Sequence[str]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the ids of the dialogues, sorted, and the confusion matrix of each, (D, K, K).

    Args:
        table: predictions, as `mmerc.evaluation.predictions` makes them
        labels: the K label names in class order

    Raises:
        ValueError: the table holds another label.
    """
    table = table[table["label"].notna()]
    ids, dialogue = np.unique(table["dialogue_id"].to_numpy(dtype=str), return_inverse=True)
    classes = pd.Index(labels)
    confusions = np.zeros((len(ids), len(labels), len(labels)), dtype=np.int64)
    truth, predicted = (classes.get_indexer(pd.Index(table[c])) for c in ("label", "predicted"))
    if (np.r_[truth, predicted] < 0).any():
        raise ValueError(f"the predictions hold other labels than {', '.join(labels)}")
    np.add.at(confusions, (dialogue, truth, predicted), 1)
    return [str(name) for name in ids], confusions


def weighted_f1(confusions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the weighted F1 of confusion matrices (..., K, K) with a row per true class, (...)."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1).astype(np.float64)
    support, predicted = confusions.sum(axis=-1), confusions.sum(axis=-2)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    result: npt.NDArray[np.float64] = (f1 * support).sum(axis=-1) / np.maximum(support.sum(axis=-1), 1)
    return result


def paired_bootstrap(
    a: npt.NDArray[np.int64], b: npt.NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compare the weighted F1 of two methods, a mean over seeds, by resampling dialogues (Koehn 2004).

    Whole dialogues are drawn, since the utterances of a dialogue depend on each other, and the same ones for
    both methods and all seeds. p is twice the share of resamples on the other side of zero, counted with
    the data themselves, so it is never below 2 / (resamples + 1).

    Args:
        a: (S, D, K, K) the first method's confusion matrix of each seed and dialogue
        b: (S, D, K, K) the second one's, of the same seeds and dialogues
        resamples: how often the dialogues are drawn anew
        seed: of the draws

    Raises:
        ValueError: other dialogues, classes or numbers of utterances.
    """
    if a.shape != b.shape or (a.sum(axis=-1) != b.sum(axis=-1)).any():
        raise ValueError("the two methods were not scored on the same utterances")
    count, classes = a.shape[1:3]
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    draws = draws.astype(np.float64)  # products of integers do not use the fast routines

    def drawn(seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        means = [weighted_f1((draws @ m.reshape(count, -1)).reshape(-1, classes, classes)) for m in seeds]
        average: npt.NDArray[np.float64] = np.mean(means, axis=0)
        return average

    differences = drawn(a) - drawn(b)
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    low, high = np.quantile(differences, [0.025, 0.975])
    value = float(np.mean(weighted_f1(a.sum(axis=1)) - weighted_f1(b.sum(axis=1))))
    return Difference(value, float(low), float(high), min(1.0, 2 * (int(tail) + 1) / (resamples + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): reject where one is below the level."""
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    stepped = np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()
