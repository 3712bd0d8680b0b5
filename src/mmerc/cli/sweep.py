"""`mmerc sweep`: trials of settings, compared on validation."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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
    complain,
    model_names,
    run_cells,
    say_files,
    split_names,
)
from mmerc.cli.terminal import load_torch, results
from mmerc.errors import ConfigError

if TYPE_CHECKING:
    from mmerc.experiments.cells import Cell
    from mmerc.experiments.sweep import Values
    from mmerc.metrics import Spread


GridValues = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=A,B,…", help="Such as network.alpha_similarity=0,0.3,1. Repeatable."),
]
Ranges = Annotated[
    list[str] | None,
    typer.Option("--range", metavar="KEY=LOW:HIGH[:log]", help="What --random draws from. Repeatable."),
]
Draws = Annotated[
    int,
    typer.Option(metavar="N", help="Draw so many trials instead of trying every combination.", min=0),
]
DrawSeed = Annotated[int, typer.Option(metavar="N", help="Seed of the draws.", min=0)]
Seeds = Annotated[int, typer.Option(metavar="N", help="Runs of each trial, with the seeds 0, 1, …", min=1)]
TestFolds = Annotated[
    str | None,
    typer.Option(metavar="I,J,…", help="Test folds to leave out in turn, such as 0 or 0,2; by default all."),
]
BestFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=output_file,
        help="Write --settings with the best trials added (not --set), for `mmerc benchmark`.",
    ),
]


def sweep(
    models: Annotated[str, typer.Option(metavar="A,B,…", help="Names, comma-separated; `all`.")],
    corpora: Corpora,
    out: StudyFolder,
    grid: GridValues = None,
    ranges: Ranges = None,
    random: Draws = 0,
    draw_seed: DrawSeed = 0,
    seeds: Seeds = 1,
    folds: TestFolds = None,
    settings: SettingsFile = None,
    best: BestFile = None,
    test: Annotated[bool, typer.Option("--test", help="Score every trial on test, too (figure 9).")] = False,
    assignments: Assignments = None,
    jobs: Jobs = 0,
    device: Device = "auto",
    engine: Engines = "processes",
    gpus: Gpus = 0,
) -> None:
    """Train many settings, and find the one that validates best.

    They are those of a grid, or drawn at random. The test split is not read unless `--test` asks for it, and
    it chooses nothing.
    """
    load_torch()
    import yaml

    from mmerc.config import merge, parse_overrides
    from mmerc.experiments.benchmark import open_corpora, read_settings
    from mmerc.experiments.sweep import plan_sweep
    from mmerc.storage import write_text

    names = model_names(models)
    opened = open_corpora([Path(path) for path in split_names(corpora, "--corpora")])
    given = read_settings(settings) if settings else {}
    trials = _trials(grid or [], ranges or [], random, draw_seed)
    which = (range(seeds), _fold_numbers(folds))
    base = parse_overrides(assignments or [])
    cells = plan_sweep(names, opened, trials, out, *which, given, base, "frozen" if test else "never")
    failed = run_cells(cells, jobs, device, engine, gpus)
    chosen: dict[str, Any] = {}
    for corpus, name in product(opened, names):
        folder = out / corpus.name / name
        rows = [cell for cell in cells if cell.folder.parent == folder]
        if won := show_trials(corpus.name, name, rows, trials, folder):
            chosen = merge(chosen, {corpus.name: {name: won}})
    if best is not None:
        write_text(best, yaml.safe_dump(merge(given, chosen), sort_keys=False, allow_unicode=True))
        say_files([best])
    complain(failed)


def _trials(grid: list[str], ranges: list[str], random: int, draw_seed: int) -> "list[Values]":
    from mmerc.experiments.sweep import grid_trials, random_trials, read_choices, read_range

    choices = dict(map(read_choices, grid))
    intervals = dict(map(read_range, ranges))
    if intervals and not random:
        raise ConfigError("--range needs --random N: how many trials to draw")
    if not choices and not intervals:
        raise ConfigError("nothing to try: give --grid key=v1,v2,… or --range key=low:high --random N")
    return random_trials(choices, intervals, random, draw_seed) if random else grid_trials(choices)


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


def show_trials(
    corpus: str, model: str, cells: "list[Cell]", trials: "list[Values]", folder: Path
) -> dict[str, Any]:
    """Print and write the trials of a model on a corpus, best first, with test scores if there are any.

    Returns the best one's overrides, nothing if all failed.
    """
    from mmerc.experiments.cells import result_of
    from mmerc.experiments.comparison import write_report
    from mmerc.experiments.sweep import best_trial, overrides, validation_scores
    from mmerc.tables import Grid

    rows: list[Row] = []
    for cell, trial in zip(cells, trials, strict=True):
        found, result = validation_scores(cell), result_of(cell)
        line = [cell.name, "failed" if found is None else str(found)]
        record: dict[str, Any] = {"corpus": corpus, "model": model, "trial": dict(trial)}
        record["validation_weighted_f1"] = None if found is None else found._asdict()
        if cell.test == "frozen":
            scores = None if result is None else result.summary
            line += ["–", "–"] if scores is None else [str(scores.weighted_f1), str(scores.macro_f1)]
            record["test"] = None if scores is None else scores.to_dict()
        test = None if result is None else result.summary.weighted_f1
        rows.append(Row(found, test, line, record))
    rows.sort(key=lambda row: -1.0 if row.validation is None else -row.validation.mean)
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
    return {} if winner is None else overrides(trials[winner])


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
