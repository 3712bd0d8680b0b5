"""What the commands share that run many configs: progress over all runs, and the report of failures."""

import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmerc.cli.outputs import output_folder
from mmerc.cli.progress import progress
from mmerc.cli.terminal import resumable
from mmerc.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from mmerc.experiments.cells import Cell, Outcome, Result, Runner

log = logging.getLogger(__name__)

Seeds = Annotated[int, typer.Option(metavar="N", help="Runs of each row, with the seeds 0, 1, …", min=1)]
Jobs = Annotated[
    int, typer.Option(metavar="N", help="Runs side by side, one thread each. 0: one per core.", min=0)
]
Folds = Annotated[
    bool, typer.Option("--folds", help="Cross-validate a corpus that has splits, too, if it has folds.")
]
Engine = Literal["processes", "ray"]
Engines = Annotated[
    Engine,
    typer.Option(metavar="processes|ray", help="`ray`: on the Ray cluster of RAY_ADDRESS, a run per core."),
]
Gpus = Annotated[
    float,
    typer.Option(
        metavar="SHARE", help="With `--engine ray`: a run's share of a GPU, such as 0.25.", min=0, max=1
    ),
]
Corpora = Annotated[str, typer.Option(metavar="DIR,DIR,…", help="Corpus folders, comma-separated.")]
Preset = Annotated[
    str | None, typer.Option(metavar="NAME", help="Preset of the models, such as refined or paper-meld.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(metavar="tensorboard|mlflow|trackio", help="Log every run there, too. Repeatable."),
]
StudyFolder = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        callback=output_folder,
        help="Folder for runs and tables; what is in it is not run again.",
    ),
]
SettingsFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML file: corpus → model → config, `*` for all.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="For every run, such as training.epochs=20. Repeatable."),
]


def split_names(text: str, what: str) -> list[str]:
    """Return the names in a comma-separated option.

    Raises:
        ConfigError: there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"{what} names nothing: expected a comma-separated list")
    return names


def model_names(text: str) -> list[str]:
    """Return the models of a comma-separated option; `all` means every one.

    Raises:
        ConfigError: there is none.
    """
    from mmerc.models import MODELS

    return list(MODELS) if text.strip() == "all" else split_names(text, "--models")


def runner(
    jobs: int,
    device: str,
    engine: Engine = "processes",
    gpus: float = 0,
    track: Track = None,
) -> "Runner":
    """Return what trains jobs where the options say.

    Raises:
        ConfigError, TrainingError: a tracker is not installed, cannot be reached, or not from a cluster.
    """
    from mmerc.cluster import on_cluster
    from mmerc.experiments.cells import run_jobs
    from mmerc.experiments.tracking import read_trackers

    if track and engine == "ray":
        raise ConfigError("--track works with --engine processes: a cluster's machines share no tracker")
    trackers = read_trackers(track or [])
    cluster = partial(on_cluster, gpus=gpus) if engine == "ray" else None
    return partial(run_jobs, processes=processes_of(jobs), device=device, engine=cluster, trackers=trackers)


def processes_of(jobs: int) -> int:
    """Return how many runs go side by side."""
    return jobs or os.cpu_count() or 1


def run_cells(
    cells: "Sequence[Cell]",
    jobs: int,
    device: str,
    engine: Engine = "processes",
    gpus: float = 0,
    track: Track = None,
) -> "list[Outcome]":
    """Run what is missing and show how far it is; return the failures."""
    from mmerc.experiments.cells import pending

    run = runner(jobs, device, engine, gpus, track)
    missing = pending(cells)
    total = sum(len(cell.runs) for cell in cells)
    log.info(
        "%d run(s) in %d row(s): %d done, %d to go", total, len(cells), total - len(missing), len(missing)
    )
    return watch_runs(run(missing), len(missing))


def watch_runs(outcomes: "Iterator[Outcome]", total: int) -> "list[Outcome]":
    """Show how far runs are as they end; return the failures."""
    from mmerc.experiments.tracking import lost_trackers

    failed, lost = [], []
    with progress() as begin, resumable():
        runs = begin("runs", total)
        for done, outcome in enumerate(outcomes, start=1):
            name = run_name(outcome)
            lost += lost_trackers([outcome.job.run.folder])
            if outcome.pruned is not None:
                note = f"{name}: pruned after epoch {outcome.pruned}"
            elif outcome.error is None:
                note = f"{name}: validation {100 * (outcome.validation or 0):.2f}"
            else:
                failed.append(outcome)
                note = f"{len(failed)} failed"
                log.warning("%s failed: %s", name, _first_line(outcome))
            runs.update(done, note=note)
    say_lost(lost)
    return failed


def say_lost(lines: Sequence[str]) -> None:
    """Name the runs that a tracker does not have as a whole."""
    for line in lines:
        log.warning("%s", line)


def run_name(outcome: "Outcome") -> str:
    """Return corpus, row, seed and fold of a run as they stand in its path."""
    cell, run, _ = outcome.job
    return f"{cell.folder.parent.name}/{cell.folder.name}/{run.folder.relative_to(cell.folder)}"


def results_of(cells: "Sequence[Cell]") -> "list[Result]":
    """Return the results of the cells that have any."""
    from mmerc.experiments.cells import result_of

    return [result for result in map(result_of, cells) if result is not None]


def complain(failed: "Sequence[Outcome]") -> None:
    """End the command with the failures, after all else is written.

    Raises:
        TrainingError: something failed.
    """
    if failed:
        lines = "\n".join(f"  {run_name(o)}: {_first_line(o)}" for o in failed)
        raise TrainingError(
            f"{len(failed)} run(s) failed and are not in the tables (error.txt in their folders says more); "
            f"the same command tries them again:\n{lines}"
        )


def _first_line(outcome: "Outcome") -> str:
    return (outcome.error or "").partition("\n")[0]


def say_files(files: Sequence[Path]) -> None:
    """Name the files that were written."""
    log.info("written: %s", ", ".join(map(str, files)))
