"""Both precisions in which our networks are compared with the authors'."""

from collections.abc import Iterator

import pytest
from authors import double


@pytest.fixture(params=["single", "double"])
def tolerance(request: pytest.FixtureRequest) -> Iterator[float]:
    """Return how far numbers may be apart."""
    if request.param == "single":
        yield 1e-5
        return
    with double():
        yield 1e-9
