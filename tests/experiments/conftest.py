"""What the tests of experiments share."""

import pytest

from tiny import in_this_process


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process: starting another takes seconds."""
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
