"""Runs command lines in this process, as the installed script would."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from mmerc.cli.main import run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mmerc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line: (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmerc", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call
