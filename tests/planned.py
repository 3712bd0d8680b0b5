"""Cells of an experiment, finished, copied, cut and gone on with."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmerc.corpus import Corpus
from mmerc.experiments.cells import Cell, Outcome, fingerprint, pending, run_jobs
from mmerc.experiments.listeners import Oracle, Stopwatch, Together
from mmerc.training import Listener, train
from tiny import config, in_this_process, task

RUN = config("df-erc", epochs=2)


def finish(*cells: Cell) -> None:
    """Train and test cells in this process, where no fixture can say so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
        assert {outcome.error for outcome in run(*cells)} == {None}


def copied(cell: Cell, folder: Path) -> Cell:
    shutil.copytree(cell.folder, folder)
    return moved(cell, folder)


def moved(cell: Cell, folder: Path) -> Cell:
    runs = [run._replace(folder=folder / run.folder.relative_to(cell.folder)) for run in cell.runs]
    return replace(cell, folder=folder, runs=tuple(runs))


def content(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """All files below a folder, with the time of their writing."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def run(*cells: Cell) -> list[Outcome]:
    return list(run_jobs(pending(cells), 1, "cpu"))


def cut_after_one_epoch(corpus: Corpus, cell: Cell, listener: Callable[[Path], Listener]) -> None:
    """Do what a run does until its first epoch is over."""

    class Cut(Listener):
        def __init__(self, folder: Path) -> None:
            self.inner = listener(folder)
            self.begin = self.inner.begin  # type: ignore[method-assign]  # the inner one's in place of its own
            self.validated = self.inner.validated  # type: ignore[method-assign]

        def epoch(self, record: dict[str, Any]) -> None:
            self.inner.epoch(record)
            raise InterruptedError

    for one in cell.runs:
        with pytest.raises(InterruptedError):
            train(task(corpus, cell.config, one.seed), one.folder, listener=Cut(one.folder), device="cpu")


def watching(corpus: Corpus) -> Callable[[Path], Listener]:
    """Return what watches the run of a folder on test."""

    def listener(folder: Path) -> Listener:
        oracle = Oracle(folder, task(corpus, RUN), corpus.split("test"), fingerprint(corpus))
        return Together([Stopwatch(folder), oracle])

    return listener
