"""How far long work is, on standard error: bars on a terminal, elsewhere a line now and then."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from mmerc.cli.terminal import LOG, SCREEN

EVERY_S = 10  # between two lines about the same work


class Work:
    """Work that is told of: a bar, or lines where there are no bars."""

    def __init__(self, bars: Progress | None, name: str, total: int | None) -> None:
        self._bars = bars
        self._task = None if bars is None else bars.add_task(name, total=total, note="")
        self._name, self._total, self._done = name, total, 0
        self._first: tuple[float, int] | None = None  # when was how much done
        self._told = time.monotonic()

    def update(self, done: int, *, total: int | None = None, name: str | None = None, note: str = "") -> None:
        """Tell how much is done, of how much, of what, and a note on it."""
        if self._first is None or done < self._done:  # it begins, or begins anew, as an epoch does
            self._first = time.monotonic(), done
        self._total, self._name, self._done = total or self._total, name or self._name, done
        if self._bars is not None and self._task is not None:
            self._bars.update(
                self._task, completed=done, total=self._total, description=self._name, note=note
            )
        elif time.monotonic() - self._told >= EVERY_S:
            parts = [f"{self._name}: {done} of {self._total}", self._left(*self._first), note]
            self.line(", ".join(filter(None, parts)))

    def line(self, text: str) -> None:
        """Say something that a bar shows anyway."""
        if self._bars is None:
            LOG.info("%s", text)
            self._told = time.monotonic()

    def _left(self, begun: float, before: int) -> str:
        if self._total is None or self._done == before:
            return ""
        seconds = (time.monotonic() - begun) / (self._done - before) * (self._total - self._done)
        return f"about {duration(seconds)} left"


@contextmanager
def progress() -> Iterator[Callable[[str, int | None], Work]]:
    """Yield what begins a piece of work, given its name and, where that is known, how much it is."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), MofNCompleteColumn(),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
    )  # fmt: skip
    shown = SCREEN.is_terminal and LOG.isEnabledFor(logging.INFO)
    with Progress(
        *columns, console=SCREEN, transient=True, expand=True, redirect_stdout=False, disable=not shown
    ) as bars:
        yield lambda name, total: Work(bars if shown else None, name, total)


def duration(seconds: float) -> str:
    """Return `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
