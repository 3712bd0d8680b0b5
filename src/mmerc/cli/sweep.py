"""`mmerc sweep`: trials of settings, compared on validation."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from mmerc.cli.common import Device
from mmerc.cli.outputs import output_file
from mmerc.cli.studies import (
    Assignments,
    Corpora,
    Engines,
    Gpus,
    Jobs,
    SettingsFile,
    StudyFolder,
    Track,
    complain,
    model_names,
    processes_of,
    run_cells,
    runner,
    say_files,
    split_names,
    watch_runs,
)
from mmerc.cli.terminal import load_torch, results
from mmerc.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from mmerc.corpus import Corpus
    from mmerc.experiments.benchmark import Settings
    from mmerc.experiments.cells import Cell, Outcome, Runner
    from mmerc.experiments.sweep import Range, Values
    from mmerc.experiments.tuning import Space, Study
    from mmerc.metrics import Spread

    Choices = tuple[dict[str, list[Any]], dict[str, Range]]

log = logging.getLogger(__name__)

Sampler = Literal["grid", "random", "tpe"]
Models = Annotated[str, typer.Option(metavar="A,B,…", help="Names, comma-separated; `all`.")]
Grids = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=A,B,…", help="Such as network.alpha_similarity=0,0.3,1. Repeatable."),
]
Ranges = Annotated[
    list[str] | None,
    typer.Option(
        "--range", metavar="KEY=LOW:HIGH[:log]", help="What `random` and `tpe` draw from. Repeatable."
    ),
]
Samplers = Annotated[
    Sampler,
    typer.Option(
        metavar="grid|random|tpe",
        help="Every combination, random draws, or what Optuna proposes after the earlier trials.",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(metavar="N", help="Trials of each model on each corpus, for `random` and `tpe`.", min=1),
]
DrawSeed = Annotated[int, typer.Option(metavar="N", help="Seed of `random` and `tpe`.", min=0)]
Prune = Annotated[
    bool,
    typer.Option(
        "--prune", help="With `tpe`: end a trial whose first run is below the median of the earlier ones."
    ),
]
TrialSeeds = Annotated[
    int, typer.Option(metavar="N", help="Runs of each trial, with the seeds 0, 1, …", min=1)
]
TestFolds = Annotated[
    str | None,
    typer.Option(metavar="I,J,…", help="Test folds to leave out in turn, such as 0 or 0,2; by default all."),
]
Best = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=output_file,
        help="Write --settings with the best trials added (not --set), for `mmerc benchmark`.",
    ),
]
OnTest = Annotated[bool, typer.Option("--test", help="Score every trial on test, too (figure 9).")]


def sweep(
    models: Models,
    corpora: Corpora,
    out: StudyFolder,
    grid: Grids = None,
    ranges: Ranges = None,
    sampler: Samplers = "grid",
    trials: Trials = None,
    draw_seed: DrawSeed = 0,
    prune: Prune = False,
    seeds: TrialSeeds = 1,
    folds: TestFolds = None,
    settings: SettingsFile = None,
    best: Best = None,
    test: OnTest = False,
    assignments: Assignments = None,
    jobs: Jobs = 0,
    device: Device = "auto",
    engine: Engines = "processes",
    gpus: Gpus = 0,
    track: Track = None,
) -> None:
    """Train many settings, and find the one that validates best.

    They are those of a grid, drawn at random, or proposed by Optuna. The test split, which only `--test`
    reads, chooses nothing. Cut off, the same command goes on.
    """
    load_torch()
    from mmerc.config import parse_overrides
    from mmerc.experiments.benchmark import open_corpora, read_settings
    from mmerc.experiments.sweep import grid_trials, plan_sweep, random_trials
    from mmerc.experiments.tuning import Space

    opened = open_corpora([Path(path) for path in split_names(corpora, "--corpora")])
    given = read_settings(settings) if settings else {}
    space = _space(grid or [], ranges or [], sampler, trials, prune)
    plan = partial(
        plan_sweep,
        out=out,
        seeds=range(seeds),
        folds=_fold_numbers(folds),
        settings=given,
        base=parse_overrides(assignments or []),
        test="frozen" if test else "never",
    )
    pairs = list(product(opened, model_names(models)))
    if sampler == "tpe":
        run = runner(jobs, device, engine, gpus, track)
        plans = [partial(_cell, plan, name, corpus) for corpus, name in pairs]
        found, failed = _tune(plans, Space(*space), draw_seed, trials or 0, prune, processes_of(jobs), run)
    else:
        values = random_trials(*space, trials, draw_seed) if trials else grid_trials(space[0])
        found = [Tried(plan([name], [corpus], values), values) for corpus, name in pairs]
        failed = run_cells([c for tried in found for c in tried.cells], jobs, device, engine, gpus, track)
    chosen = _show(pairs, found, out)
    if best is not None:
        _write_best(best, given, chosen)
    complain(failed)


def _write_best(file: Path, given: "Settings", chosen: dict[str, Any]) -> None:
    """Write the given settings with the best trials added."""
    import yaml

    from mmerc.config import merge
    from mmerc.storage import write_text

    write_text(file, yaml.safe_dump(merge(given, chosen), sort_keys=False, allow_unicode=True))
    say_files([file])


class Tried(NamedTuple):
    """The trials of a model on a corpus, a cell and the varied values for each."""

    cells: "list[Cell]"
    values: "list[Values]"
    pruned: dict[Path, int] = {}  # noqa: RUF012  # last epoch by the cell's folder; read only

    @classmethod
    def of(cls, study: "Study") -> "Tried":
        """Return what a study has tried, each once."""
        found = {trial.cell.folder: trial for trial in study.trials()}.values()
        return cls([trial.cell for trial in found], [trial.values for trial in found], study.pruned())


def _tune(
    plans: "Sequence[Callable[[Values], Cell]]",
    space: "Space",
    seed: int,
    trials: int,
    prune: bool,
    jobs: int,
    run: "Runner",
) -> "tuple[list[Tried], list[Outcome]]":
    """Try what Optuna proposes for each model on each corpus."""
    from mmerc.experiments.tuning import Study, study_folder, tune
    from mmerc.storage import exclusive

    with ExitStack() as held:
        for plan in plans:
            held.enter_context(exclusive(study_folder(plan, space), TrainingError))
        studies = [Study(plan, space, seed) for plan in plans]
        total = trials * sum(len(plan(space.example()).runs) for plan in plans)
        log.info("%d trial(s) in %d row(s): at most %d run(s)", trials, len(plans), total)
        failed = watch_runs(tune(studies, trials, jobs, prune, run), total)
        return [Tried.of(study) for study in studies], failed


def _cell(plan: "Callable[..., list[Cell]]", model: str, corpus: "Corpus", values: "Values") -> "Cell":
    (cell,) = plan([model], [corpus], [values])
    return cell


def _space(
    grid: list[str], ranges: list[str], sampler: Sampler, trials: int | None, prune: bool
) -> "Choices":
    """Read what is to be tried.

    Raises:
        ConfigError: it is nothing, or the options contradict each other.
    """
    from mmerc.experiments.sweep import read_choices, read_range
    from mmerc.experiments.tuning import require_optuna

    if sampler == "grid" and (ranges or trials):
        option = "--range" if ranges else "--trials"
        raise ConfigError(f"{option} needs --sampler random or --sampler tpe: a grid tries every combination")
    if sampler != "grid" and trials is None:
        raise ConfigError(f"--sampler {sampler} needs --trials N: how many to try")
    if prune and sampler != "tpe":
        raise ConfigError("--prune needs --sampler tpe: the trials of others do not wait for each other")
    if not grid and not ranges:
        raise ConfigError("nothing to try: give --grid key=v1,v2,… or --range key=low:high")
    if sampler == "tpe":
        require_optuna()
    return dict(map(read_choices, grid)), dict(map(read_range, ranges))


def _show(pairs: "list[tuple[Corpus, str]]", found: "list[Tried]", out: Path) -> dict[str, Any]:
    """Show the trials of each model on each corpus; return the best ones as settings."""
    from mmerc.config import merge

    chosen: dict[str, Any] = {}
    for (corpus, name), tried in zip(pairs, found, strict=True):
        if won := show_trials(corpus.name, name, tried, out / corpus.name / name):
            chosen = merge(chosen, {corpus.name: {name: won}})
    return chosen


def _fold_numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in split_names(text, "--folds")]
    except ValueError:
        raise ConfigError(f"--folds {text}: expected numbers, such as 0 or 0,2") from None


class Row(NamedTuple):
    """A trial in the table: its scores, its line, and what is known about it."""

    validation: "Spread | None"
    test: "Spread | None"
    line: list[str]
    record: dict[str, Any]


def show_trials(corpus: str, model: str, tried: Tried, folder: Path) -> dict[str, Any]:
    """Print and write the trials of a model on a corpus, best first, with test scores if there are any.

    Returns the best one's overrides, nothing if all failed.
    """
    from mmerc.experiments.cells import result_of
    from mmerc.experiments.comparison import write_report
    from mmerc.experiments.sweep import best_trial, overrides, validation_scores
    from mmerc.tables import Grid

    cells = tried.cells
    rows: list[Row] = []
    for cell, trial in zip(cells, tried.values, strict=True):
        found, result, pruned = validation_scores(cell), result_of(cell), tried.pruned.get(cell.folder)
        missing = "failed" if pruned is None else f"pruned after epoch {pruned}"
        line = [cell.name, missing if found is None else str(found)]
        record: dict[str, Any] = {"corpus": corpus, "model": model, "trial": dict(trial)}
        record["validation_weighted_f1"] = None if found is None else found._asdict()
        record["pruned_after_epoch"] = pruned
        if cell.test == "frozen":
            scores = None if result is None else result.summary
            line += ["–", "–"] if scores is None else [str(scores.weighted_f1), str(scores.macro_f1)]
            record["test"] = None if scores is None else scores.to_dict()
        test = None if result is None else result.summary.weighted_f1
        rows.append(Row(found, test, line, record))
    rows.sort(key=lambda row: 1.0 if row.validation is None else -row.validation.mean)
    header = [
        "trial",
        "validation wF1",
        *(["test wF1", "test macro F1"] if cells[0].test == "frozen" else []),
    ]
    runs = f"{len({r.seed for r in cells[0].runs})} seed(s)"
    folds = sorted({run.fold for run in cells[0].runs if run.fold is not None})
    where = f", folds {', '.join(map(str, folds))}" if folds else ""
    grid = Grid(f"{model} on {corpus}, %, {runs}{where}", header, [row.line for row in rows])
    results().print(grid.terminal())
    facts = {"corpus": corpus, "model": model, "chosen on": "validation weighted F1"}
    say_files(write_report(folder / "sweep", [grid], [row.record for row in rows], facts))
    show_curve(rows, folder)
    winner = best_trial(cells)
    return {} if winner is None else overrides(tried.values[winner])


def show_curve(rows: "Sequence[Row]", folder: Path) -> None:
    """Draw the score against the setting, where a single one with numbers was varied (figure 9)."""
    import pandas as pd

    if len(rows[0].record["trial"]) > 1:
        return
    points = []
    for row in rows:
        (value,) = row.record["trial"].values()
        for split, found in (("validation", row.validation), ("test", row.test)):
            if found is not None:
                points.append([value, split, found.mean, found.sd])
    data = pd.DataFrame(points, columns=["value", "split", "weighted_f1", "weighted_f1_sd"])
    numbers = pd.to_numeric(data["value"], errors="coerce")
    if numbers.isna().any() or numbers.nunique() < 2:
        return
    from mmerc.analysis.drawing import save
    from mmerc.analysis.sensitivity import draw, sensitivity

    data = data.assign(value=numbers, weighted_f1_sd=data["weighted_f1_sd"].astype(float))
    (key,) = rows[0].record["trial"]
    save(partial(draw, key), data, folder, "sweep")
    results().print(sensitivity(key, data))
