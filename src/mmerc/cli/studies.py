"""What the commands share that run many configs: progress over all runs, and the report of failures."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmerc.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from mmerc.experiments.cells import Cell, Outcome, Result, Runner

console = Console(highlight=False)

Seeds = Annotated[int, typer.Option(help="Runs of each row, with the seeds 0, 1, …", min=1)]
Jobs = Annotated[int, typer.Option(help="Runs side by side, one thread each. 0: one per core.", min=0)]
Folds = Annotated[
    bool, typer.Option("--folds", help="Cross-validate a corpus that has splits, too, if it has folds.")
]
Engine = Literal["processes", "ray"]
Engines = Annotated[Engine, typer.Option(help="`ray`: on the Ray cluster of RAY_ADDRESS, a run per core.")]
Gpus = Annotated[
    float, typer.Option(help="With `--engine ray`: a run's share of a GPU, such as 0.25.", min=0, max=1)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Track = Annotated[
    list[str] | None,
    typer.Option(help="Log every run to tensorboard, mlflow or trackio. Repeatable."),
]
Corpora = Annotated[str, typer.Option(help="Corpus folders, comma-separated.")]
StudyFolder = Annotated[
    Path, typer.Option(help="Folder for runs and tables; what is in it is not run again.")
]
SettingsFile = Annotated[Path | None, typer.Option(help="YAML file: corpus → model → config, `*` for all.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value for every run, such as training.epochs=20. Repeatable."),
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
    """Run what is missing with a progress bar over all runs; return the failures."""
    from mmerc.experiments.cells import pending

    run = runner(jobs, device, engine, gpus, track)
    missing = pending(cells)
    total = sum(len(cell.runs) for cell in cells)
    console.print(f"{total} run(s) in {len(cells)} row(s): {total - len(missing)} done, {len(missing)} to go")
    return watch_runs(run(missing), len(missing))


def watch_runs(outcomes: "Iterator[Outcome]", total: int) -> "list[Outcome]":
    """Draw a progress bar over runs as they end; return the failures."""
    from mmerc.experiments.tracking import lost_trackers

    failed, lost = [], []
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("runs", total=total, note="")
        try:
            for outcome in outcomes:
                name = run_name(outcome)
                lost += lost_trackers([outcome.job.run.folder])
                if outcome.pruned is not None:
                    note = f"{name}: pruned after epoch {outcome.pruned}"
                elif outcome.error is None:
                    note = f"{name}: validation {100 * (outcome.validation or 0):.2f}"
                else:
                    failed.append(outcome)
                    note = f"{len(failed)} failed"
                    text = Text.assemble(("failed", "red"), f" {name}: {_first_line(outcome)}")
                    bar.console.print(text, soft_wrap=True)
                bar.update(task, advance=1, note=note)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted: the same command goes on where it stopped\n")
            raise
    say_lost(lost)
    return failed


def say_lost(lines: Sequence[str]) -> None:
    """Name the runs that a tracker does not have as a whole."""
    for line in lines:
        console.print(Text.assemble(("warning:", "yellow"), f" {line}"), soft_wrap=True)


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
    console.print("written: " + ", ".join(map(str, files)), markup=False, soft_wrap=True)
