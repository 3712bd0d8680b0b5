"""The presets `official…` draw every parameter from the distribution that the authors' code draws it from."""

import math
import re

import authors_weights as tables
import pytest
import torch
from authors import Authors, Table, Weights
from torch import Tensor

DRAWS = 40  # of two entries, the fewest, the largest is below .9 of its bound with a chance of .0002
CASES: dict[str, tuple[Table, str]] = {  # initial weights do not depend on the corpus
    "df-erc": (tables.df_erc, "official-iemocap"),
    "mm-dfn": (tables.mm_dfn, "official-iemocap"),
    "cfn-esa": (tables.cfn_esa, "official-meld"),
}


def units(weights: Weights, name: str) -> int:
    """Return the units of the recurrence that a parameter belongs to."""
    recurrence = re.split(r"(?:\.module)?\.(?:weight|bias)_[ih]h", name)[0]
    return next(w.shape[1] for n, w in weights.items() if n.startswith(f"{recurrence}.weight_hh"))


def bound(weights: Weights, name: str, distribution: str) -> float:
    """Return the largest entry that a distribution, as the file's notes word it, can give."""
    if distribution in ("ones", "zeros"):
        return float(distribution == "ones")
    if "hidden units" in distribution:
        return 1 / math.sqrt(units(weights, name))
    if "stacked" in distribution:
        return math.sqrt(6 / sum(weights[name].shape))
    if "columns" in distribution:
        return 1 / math.sqrt(weights[name].shape[1])
    fan_in = weights[re.sub("bias$", "weight", name)].shape[1]
    # The notes take √6/√fan_in for Xavier's √6/√(fan_in + 1) where there is one row; their words do not.
    kaiming = "Kaiming" in distribution or "Xavier" in distribution
    return math.sqrt((6 if kaiming else 1) / fan_in)


def bounds(authors: Authors, table: Table) -> dict[str, Tensor]:
    """Return for every parameter of ours the bound of each entry: the authors', by way of the table."""
    weights, notes = authors.part("weight"), authors.notes["initial_weights"]["parameters"]
    return table(
        {n: torch.full_like(w, bound(weights, n, notes[n]["distribution"])) for n, w in weights.items()}
    )


@pytest.mark.parametrize("file", CASES)
def test_every_parameter_starts_in_the_bounds_of_the_official_code(file: str) -> None:
    authors, (table, preset) = Authors(file), CASES[file]
    torch.manual_seed(0)
    largest: dict[str, Tensor] = {}
    for _ in range(DRAWS):
        for name, parameter in authors.network(preset).named_parameters():
            entries = parameter.detach().abs()
            largest[name] = torch.maximum(largest.get(name, entries), entries)
    expected = bounds(authors, table)
    assert set(largest) == set(expected)
    for name, limit in expected.items():
        assert (largest[name] <= 1.00001 * limit).all(), name
        assert largest[name].max() >= 0.9 * limit.max(), name
