"""Groups of utterances and their scores: first within each seed, then mean and sd over the seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import f1_score


def quantile_groups(values: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Return the group 0 … count − 1 of each value by its rank, the groups of equal size (± 1).

    Values that are the same are told apart by their position; NaN is in group −1.
    """
    array = np.asarray(values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(array))
    order = known[np.argsort(array[known], kind="stable")]
    groups = np.full(len(array), -1, dtype=np.int64)
    groups[order] = np.arange(len(order)) * count // max(len(order), 1)
    return groups


def weighted_f1(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Return the mean F1 of the classes that occur, weighted by how often they truly do."""
    return float(f1_score(truth, predicted, average="weighted", zero_division=0))


def score_groups(utterances: pd.DataFrame, keys: Sequence[str], means: Sequence[str] = ()) -> pd.DataFrame:
    """Return utterances, accuracy, weighted F1 and the means of further columns, a row per group.

    Args:
        utterances: with the columns truth and predicted; see `FrozenRun`
        keys: columns that make a group
        means: columns to average, NaN left out
    """
    rows = []
    for key, group in utterances.groupby(list(keys), sort=True):
        row: dict[str, object] = dict(zip(keys, key, strict=True)) | {"utterances": len(group)}
        row["accuracy"] = float((group["truth"] == group["predicted"]).mean())
        row["weighted_f1"] = weighted_f1(group["truth"], group["predicted"])
        rows.append(row | {name: float(group[name].mean()) for name in means})
    return pd.DataFrame(rows)


def over_seeds(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return mean and sd (ddof 1; NaN for one seed) over the seeds, a row per group, in order of appearance.

    Args:
        table: a row per seed and group
        keys: columns that make a group; the column `seed` and they apart, all columns are averaged
    """
    numbers = [str(name) for name in table.columns if name not in {*keys, "seed"}]
    grouped = table.groupby(list(keys), sort=False)
    parts: dict[str, pd.Series] = {"seeds": grouped["seed"].nunique()}
    for name in numbers:
        parts[name] = grouped[name].mean()
        parts[f"{name}_sd"] = grouped[name].std()
    return pd.DataFrame(parts).reset_index()


def omega_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns `omega:<modality>`, without their spreads."""
    return [str(c) for c in table.columns if str(c).startswith("omega:") and not str(c).endswith("_sd")]


def align(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Keep the utterances (seed and row) that every table has, in the same order, so that rows correspond."""
    keys = ["seed", "row"]
    shared: pd.DataFrame | None = None
    for table in tables.values():
        shared = table[keys] if shared is None else shared.merge(table[keys], on=keys)
    assert shared is not None
    shared = shared.sort_values(keys)
    return {name: shared.merge(table, on=keys) for name, table in tables.items()}


def per_seed(table: pd.DataFrame, model: str, value: str, column: str = "group") -> pd.DataFrame:
    """Return a value of one model, a row per seed and a column per group."""
    return table[table["model"] == model].pivot_table(index="seed", columns=column, values=value)
