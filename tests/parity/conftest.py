"""Both precisions in which our networks are compared with the authors'."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture(params=["single", "double"])
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """Return how far numbers may be apart; in double precision, casts to single precision are lifted."""
    if request.param == "single":
        yield 1e-5
        return
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield 1e-9
    torch.set_default_dtype(torch.float32)
