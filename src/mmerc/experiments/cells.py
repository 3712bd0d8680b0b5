"""Many configs on many corpora: what is missing is run, what was cut goes on, what fails stops nothing else.

A cell is one row of a table: a config on a corpus, trained once per seed and fold. Beside its checkpoint a
finished run holds `test.parquet`, the frozen checkpoint's predictions of its test split, `speed.json`, and
`done.json`, which says by a hash on what data. `done.json` is written last: where it is, the run is whole.
"""

import hashlib
import json
import statistics
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from mmerc.checkpoint import load_checkpoint
from mmerc.config import RunConfig, read_yaml
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, MmercError, TrainingError
from mmerc.evaluation import evaluate, predictions, score_table, write_predictions
from mmerc.experiments.listeners import Oracle, Pruned, Stopwatch, read_notes
from mmerc.experiments.runs import Run, plan, task_of
from mmerc.experiments.tracker_stores import Tracker
from mmerc.experiments.tracking import train_tracked
from mmerc.manifest import damaged
from mmerc.metrics import Scores, Summary, summarise
from mmerc.models import resolve
from mmerc.optimization import choose_device, failures_explained
from mmerc.processes import side_by_side
from mmerc.storage import exclusive, write_json, write_text
from mmerc.training import Listener


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
    """One run of a cell; `watch` makes a listener more where it trains."""

    cell: Cell
    run: Run
    watch: Callable[[], Listener] | None = None


Engine = Callable[[Callable[[Job], float], Sequence[Job]], Iterator[tuple[Job, float | Exception]]]


class Outcome(NamedTuple):
    """How a run ended: the weighted F1 of the chosen epoch on validation, or why it failed or was pruned."""

    job: Job
    validation: float | None
    error: str | None = None
    pruned: int | None = None  # the epoch after which a listener ended it


Runner = Callable[[Sequence[Job]], Iterator[Outcome]]  # trains jobs, yields each as it ends


@dataclass(frozen=True)
class Result:
    """What a cell's finished seeds predict, and what they cost."""

    cell: Cell
    labels: tuple[str, ...]
    predictions: dict[int, pd.DataFrame]  # seed → its test predictions, folds pooled
    scores: dict[int, Scores]  # seed → scores of these
    validation: dict[int, float]  # seed → mean weighted F1 on validation over its folds
    parameters: int
    seconds_per_epoch: float | None  # median, beside whatever else ran; None: nobody noted it down
    unfinished: int  # seeds that lack a run

    @property
    def summary(self) -> Summary:
        """Mean and spread over the seeds."""
        return summarise(list(self.scores.values()))


def is_done(job: Job, corpus: Corpus) -> bool:
    """Return whether a run is finished with this very config on these very data."""
    folder = job.run.folder
    files = ["checkpoint.json", *filter(None, [job.cell.predictions])]
    if not all((folder / name).exists() for name in files):
        return False
    if read_notes(folder / "done.json").get("data") != fingerprint(corpus):
        return False
    try:
        return resolve(job.cell.config.model, read_yaml(folder / "config.yaml")) == job.cell.config
    except ConfigError:  # of another version, or damaged: training says more
        return False


def fingerprint(corpus: Corpus) -> str:
    """Return a hash of what a run may read of a corpus; another path or time of writing changes nothing.

    Raises:
        CorpusError: a file is not what its checksum says.
    """
    names = ["utterances.parquet", *(f"features/{m}.safetensors" for m in sorted(corpus.modalities))]
    stats = {n: (corpus.path / n).stat() for n in names if (corpus.path / n).exists()}  # training says more
    sums = {n: _sha256(corpus.path / n, stat.st_mtime_ns, stat.st_size) for n, stat in stats.items()}
    for name, found in sums.items():
        if found != corpus.manifest.files.get(name, found):
            raise damaged(corpus.path, name)
    manifest = corpus.manifest.model_dump_json(exclude={"provenance", "files", "sha256"})
    return hashlib.sha256("\n".join([manifest, *sums.values()]).encode()).hexdigest()


@cache
def _sha256(path: Path, modified: int, size: int) -> str:
    """Hash a file; modification time and size are there for the cache."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def pending(cells: Sequence[Cell]) -> list[Job]:
    """Return the runs that are not done."""
    corpora = {path: Corpus.open(path) for path in {cell.corpus for cell in cells}}
    jobs = [Job(cell, run) for cell in cells for run in cell.runs]
    return [job for job in jobs if not is_done(job, corpora[job.cell.corpus])]


def run_jobs(
    jobs: Sequence[Job],
    processes: int,
    device: str = "auto",
    engine: Engine | None = None,
    trackers: Sequence[Tracker] = (),
) -> Iterator[Outcome]:
    """Train and test `jobs`; yield each as it ends. A failure's reason goes to `error.txt`.

    They go side by side in so many processes, or where `engine` takes them (`mmerc.cluster.on_cluster`).
    """
    engine = engine or partial(side_by_side, processes=processes)
    for job, result in engine(partial(_train_and_test, device, trackers), jobs):
        error_file = job.run.folder / "error.txt"
        if isinstance(result, Pruned):
            yield Outcome(job, None, pruned=result.epoch)
        elif isinstance(result, Exception):
            trace = "".join(traceback.format_exception(result))
            write_text(error_file, f"{result}\n" if isinstance(result, MmercError) else trace)
            kind = "" if isinstance(result, MmercError) else f"{type(result).__name__}: "
            yield Outcome(job, None, f"{kind}{result}")
        else:
            error_file.unlink(missing_ok=True)
            yield Outcome(job, result)


def _train_and_test(device: str, trackers: Sequence[Tracker], job: Job) -> float:
    """Finish a run in this process; return the chosen epoch's weighted F1 on validation."""
    with exclusive(job.run.folder, TrainingError):
        return _finish(device, trackers, job)


def _finish(device: str, trackers: Sequence[Tracker], job: Job) -> float:
    corpus = Corpus.open(job.cell.corpus)
    folder, fold, data = job.run.folder, job.run.fold, fingerprint(corpus)
    if (folder / "checkpoint.json").exists() and not (folder / "state.pt").exists():
        raise TrainingError(
            f"{folder} holds a checkpoint without the state.pt that says where it comes from, and training "
            "would overwrite it: move it away, or use another --out"
        )
    task = task_of(corpus, job.cell.config, job.run)
    listener: Listener = Stopwatch(folder)
    if job.cell.test == "oracle":
        test = corpus.split("test") if fold is None else corpus.fold(fold)["test"]
        listener = Oracle(folder, task, test, data)
    watch = [job.watch()] if job.watch else []
    progress = train_tracked(task, folder, trackers, [listener, *watch], resume=True, device=device)
    if job.cell.test == "frozen" and job.cell.predictions:
        with failures_explained(task.run, choose_device(device)):
            (found,) = evaluate(folder, corpus, device=device)  # the one look at the test split
        table = predictions(corpus, found.rows, found.probabilities)
        write_predictions(folder / job.cell.predictions, table)
    write_json(folder / "done.json", {"data": data})
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
        parameters=sum(p.numel() for p in load_checkpoint(folders[0]).pipeline.parameters()),
        seconds_per_epoch=_median_seconds(folders),
        unfinished=len({run.seed for run in cell.runs}) - len(done),
    )


def _pooled(runs: Sequence[Run], name: str) -> pd.DataFrame:
    table = pd.concat([_read_predictions(run.folder / name) for run in runs])
    return table.sort_values(["dialogue_id", "utterance_index"], ignore_index=True)


def _read_predictions(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"{path} cannot be read ({reason}): delete it, and the same command writes it again"
        ) from None


def _median_seconds(folders: Sequence[Path]) -> float | None:
    seconds = [s for folder in folders for s in read_notes(folder / "speed.json").get("seconds", [])]
    return statistics.median(seconds) if seconds else None
