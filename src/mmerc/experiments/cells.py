"""Many configs on many corpora: what is missing is run, what was cut goes on, what fails stops nothing else.

A cell is one row of a table: a config on a corpus, trained once per seed and fold. Beside its checkpoint a
finished run holds `test.parquet`, the frozen checkpoint's predictions of its test split, and `speed.json`.
"""

import json
import statistics
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from safetensors import safe_open

from mmerc.config import RunConfig, read_yaml
from mmerc.corpus import Corpus
from mmerc.errors import MmercError
from mmerc.evaluation import evaluate, predictions, score_table, write_predictions
from mmerc.experiments.listeners import Oracle, Stopwatch
from mmerc.experiments.runs import Run, out_of_memory_explained, plan, side_by_side, task_of
from mmerc.metrics import Scores, Summary, summarise
from mmerc.models import resolve
from mmerc.storage import write_text
from mmerc.training import train


@dataclass(frozen=True)
class Cell:
    """A config on a corpus, over seeds and folds; `name` is its row's."""

    name: str
    corpus: Path
    config: RunConfig
    folder: Path
    runs: tuple[Run, ...]
    test: Literal["frozen", "oracle", "never"] = "frozen"  # oracle: by the epoch that is best on test

    @property
    def predictions(self) -> str | None:
        """The file of a run that holds its test predictions; None if the test split is not read."""
        return {"frozen": "test.parquet", "oracle": "oracle.parquet", "never": None}[self.test]

    @classmethod
    def of(
        cls, name: str, corpus: Corpus, config: RunConfig, folder: Path, seeds: Sequence[int], folds: bool
    ) -> "Cell":
        """Plan the runs of a cell below `folder`; with `folds`, one for each seed and test fold."""
        runs = plan(corpus, folder, seeds, folds, seed_folders=True)
        return cls(name, corpus.path, config, folder, tuple(runs))


class Job(NamedTuple):
    """One run of a cell."""

    cell: Cell
    run: Run


class Outcome(NamedTuple):
    """How a run ended: the weighted F1 of the chosen epoch on validation, or why it failed."""

    job: Job
    validation: float | None
    error: str | None = None


@dataclass(frozen=True)
class Result:
    """What a cell's finished seeds predict, and what they cost."""

    cell: Cell
    labels: tuple[str, ...]
    predictions: dict[int, pd.DataFrame]  # seed → its test predictions, folds pooled
    scores: dict[int, Scores]  # seed → scores of these
    validation: dict[int, float]  # seed → mean weighted F1 on validation over its folds
    parameters: int
    seconds_per_epoch: float  # median, beside whatever else ran
    unfinished: int  # seeds that lack a run

    @property
    def summary(self) -> Summary:
        """Mean and spread over the seeds."""
        return summarise(list(self.scores.values()))


def is_done(job: Job, corpus: Corpus) -> bool:
    """Return whether a run is finished with this very config, on data not written since."""
    folder = job.run.folder
    files = ["checkpoint.json", *filter(None, [job.cell.predictions])]
    if not all((folder / name).exists() for name in files):
        return False
    if (corpus.path / "corpus.json").stat().st_mtime > (folder / "checkpoint.json").stat().st_mtime:
        return False  # training looks at the data themselves
    return resolve(job.cell.config.model, read_yaml(folder / "config.yaml")) == job.cell.config


def pending(cells: Sequence[Cell]) -> list[Job]:
    """Return the runs that are not done."""
    corpora = {path: Corpus.open(path) for path in {cell.corpus for cell in cells}}
    jobs = [Job(cell, run) for cell in cells for run in cell.runs]
    return [job for job in jobs if not is_done(job, corpora[job.cell.corpus])]


def run_jobs(jobs: Sequence[Job], processes: int, device: str = "auto") -> Iterator[Outcome]:
    """Train and test `jobs` side by side; yield each as it ends. A failure's reason goes to `error.txt`."""
    for job, result in side_by_side(partial(_train_and_test, device), jobs, processes):
        error_file = job.run.folder / "error.txt"
        if isinstance(result, Exception):
            trace = "".join(traceback.format_exception(result))
            write_text(error_file, f"{result}\n" if isinstance(result, MmercError) else trace)
            kind = "" if isinstance(result, MmercError) else f"{type(result).__name__}: "
            yield Outcome(job, None, f"{kind}{result}")
        else:
            error_file.unlink(missing_ok=True)
            yield Outcome(job, result)


def _train_and_test(device: str, job: Job) -> float:
    """Finish a run in this process; return the chosen epoch's weighted F1 on validation."""
    corpus = Corpus.open(job.cell.corpus)
    folder, fold = job.run.folder, job.run.fold
    task = task_of(corpus, job.cell.config, job.run)
    listener = Stopwatch(folder)
    if job.cell.test == "oracle":
        listener = Oracle(folder, task, corpus.split("test") if fold is None else corpus.fold(fold)["test"])
    with out_of_memory_explained():
        progress = train(task, folder, resume=True, device=device, listener=listener)
    if job.cell.test == "frozen" and job.cell.predictions:
        (found,) = evaluate(folder, corpus, device=device)  # the one look at the test split
        write_predictions(folder / job.cell.predictions, predictions(corpus, found.rows, found.probabilities))
    return progress.best_score


def finished_seeds(cell: Cell, corpus: Corpus) -> dict[int, list[Run]]:
    """Return the runs of every seed that has them all."""
    by_seed: dict[int, list[Run]] = defaultdict(list)
    for run in cell.runs:
        by_seed[run.seed].append(run)
    return {s: runs for s, runs in by_seed.items() if all(is_done(Job(cell, r), corpus) for r in runs)}


def validation_of(runs: Sequence[Run]) -> float:
    """Return the mean weighted F1 on validation, at the chosen epochs, of finished runs."""
    manifests = [json.loads((run.folder / "checkpoint.json").read_text(encoding="utf-8")) for run in runs]
    return float(np.mean([manifest["validation"]["weighted_f1"] for manifest in manifests]))


def result_of(cell: Cell) -> Result | None:
    """Read what a cell's runs left; None if no seed is complete, or if its test split is not to be read."""
    corpus = Corpus.open(cell.corpus)
    done = finished_seeds(cell, corpus)
    file = cell.predictions
    if not done or file is None:
        return None
    labels = corpus.labels
    tables = {seed: _pooled(runs, file) for seed, runs in done.items()}
    folders = [run.folder for runs in done.values() for run in runs]
    return Result(
        cell=cell,
        labels=labels,
        predictions=tables,
        scores={seed: score_table(table, labels) for seed, table in tables.items()},
        validation={seed: validation_of(runs) for seed, runs in done.items()},
        parameters=_parameters(folders[0]),
        seconds_per_epoch=statistics.median(
            s for folder in folders for s in json.loads((folder / "speed.json").read_text())["seconds"]
        ),
        unfinished=len({run.seed for run in cell.runs}) - len(done),
    )


def _pooled(runs: Sequence[Run], name: str) -> pd.DataFrame:
    table = pd.concat([pd.read_parquet(run.folder / name) for run in runs])
    return table.sort_values(["dialogue_id", "utterance_index"], ignore_index=True)


def _parameters(folder: Path) -> int:
    """Return the number of trained weights: those in the file without the standardising statistics."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = [n for n in file.keys() if not n.startswith("standardizer.")]  # noqa: SIM118  # not a dict
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)
