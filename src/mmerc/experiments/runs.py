"""Several runs of one config: seeds, and the folds of a cross-validation."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, MmercError, TrainingError
from mmerc.experiments.tracker_stores import Tracker
from mmerc.experiments.tracking import NOTES, train_tracked
from mmerc.processes import side_by_side
from mmerc.run_state import Progress
from mmerc.task import Task
from mmerc.training import Listener


class Run(NamedTuple):
    """One training run: its folder below the experiment's, its seed, and its test fold if it has one."""

    folder: Path
    seed: int
    fold: int | None = None


def plan(
    corpus: Corpus, out: Path, seeds: Sequence[int], cross_validate: bool, seed_folders: bool = False
) -> list[Run]:
    """Return the runs of an experiment: a folder per seed and fold, or `out` itself for a single run.

    With `seed_folders` a single seed has a folder, too, so that more can join it later.

    Raises:
        ConfigError: folds are asked for, but the corpus has none.
    """
    if cross_validate and len(corpus.folds) < 2:
        splits = corpus.utterances["split"].notna().any()
        hint = "it has splits, train without the flag" if splits else "import it with a column `fold`"
        raise ConfigError(f"--cross-validate: {corpus.path} has no folds; {hint}")
    folds: Sequence[int | None] = corpus.folds if cross_validate else [None]
    runs = []
    for seed in seeds:
        for fold in folds:
            parts = ([f"seed-{seed}"] if seed_folders or len(seeds) > 1 else []) + (
                [f"fold-{fold}"] if fold is not None else []
            )
            runs.append(Run(out.joinpath(*parts), seed, fold))
    return runs


def require_free(out: Path, runs: Sequence[Run]) -> None:
    """Refuse, before any work, an output folder that cannot be written or that holds something else.

    Raises:
        TrainingError: it is a file, may not be written to, is a corpus, or its files would mix with a run's.
    """
    nearest = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise TrainingError(f"{out} cannot be written: {nearest} is not a folder that you may write to")
    if not out.is_dir() or any((run.folder / "state.pt").exists() for run in runs):
        return
    names = {p.name for p in out.iterdir()} - {"tensorboard", NOTES}  # may be older than the first epoch
    other = sorted(name for name in names if not name.startswith("."))
    if runs[0].folder != out:  # the runs have folders of their own
        other = [name for name in other if name in ("corpus.json", "checkpoint.json", "state.pt")]
    if other:
        raise TrainingError(f"{out} holds something else ({other[0]}): choose a new or an empty folder")


def task_of(corpus: Corpus, config: RunConfig, run: Run) -> Task:
    """Return what a run trains on: the splits of the corpus, or the folds other than its own."""
    if run.fold is None:
        return Task(corpus, config, corpus.split("train"), corpus.split("validation"), run.seed)
    parts = corpus.fold(run.fold, config.training.validation_share)
    return Task(corpus, config, parts["train"], parts["validation"], run.seed, run.fold)


def train_side_by_side(
    corpus: Path,
    config: RunConfig,
    runs: Sequence[Run],
    jobs: int,
    resume: bool,
    device: str,
    trackers: Sequence[Tracker] = (),
) -> Iterator[tuple[Run, Progress]]:
    """Train runs in `jobs` processes of one thread each; yield each run as it ends.

    A run that fails does not stop the others.

    Raises:
        TrainingError: at the end, naming the runs that failed and why.
    """
    failed: list[str] = []
    work = partial(_train_alone, corpus, config, resume, device, trackers)
    for run, result in side_by_side(work, runs, jobs):
        if isinstance(result, MmercError):
            failed.append(f"{run.folder}: {result}")
        elif isinstance(result, Exception):
            raise result
        else:
            yield run, result
    if failed:
        raise TrainingError("these runs failed:\n  " + "\n  ".join(failed))


def train_in_turn(
    corpus: Corpus,
    config: RunConfig,
    runs: Sequence[Run],
    resume: bool,
    device: str,
    listener: Callable[[Run], Listener],
    trackers: Sequence[Tracker] = (),
) -> Iterator[tuple[Run, Progress]]:
    """Train runs one after the other in this process; yield each as it ends."""
    for run in runs:
        task = task_of(corpus, config, run)
        progress = train_tracked(task, run.folder, trackers, [listener(run)], resume=resume, device=device)
        yield run, progress


def _train_alone(
    corpus: Path, config: RunConfig, resume: bool, device: str, trackers: Sequence[Tracker], run: Run
) -> Progress:
    task = task_of(Corpus.open(corpus), config, run)
    return train_tracked(task, run.folder, trackers, [], resume=resume, device=device)
