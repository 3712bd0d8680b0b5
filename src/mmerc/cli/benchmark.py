"""`mmerc benchmark`: models × corpora × seeds under one protocol."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmerc.cli.common import Device
from mmerc.cli.studies import (
    Assignments,
    Corpora,
    Engines,
    Folds,
    Gpus,
    Jobs,
    Seeds,
    SettingsFile,
    StudyFolder,
    Track,
    complain,
    model_names,
    results_of,
    run_cells,
    say_files,
    split_names,
)
from mmerc.cli.terminal import load_torch, results

if TYPE_CHECKING:
    from mmerc.corpus import Corpus
    from mmerc.experiments.cells import Cell

log = logging.getLogger(__name__)


def benchmark(
    models: Annotated[
        str,
        typer.Option(metavar="A,B,…", help="Names, comma-separated; `name:preset` for a preset; `all`."),
    ],
    corpora: Corpora,
    out: StudyFolder,
    seeds: Seeds = 5,
    folds: Folds = False,
    settings: SettingsFile = None,
    assignments: Assignments = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Row that the others are tested against; by default the best."),
    ] = None,
    oracle: Annotated[
        bool,
        typer.Option("--oracle", help="Also what choosing the epoch on test would report. Doubles the work."),
    ] = False,
    jobs: Jobs = 0,
    device: Device = "auto",
    engine: Engines = "processes",
    gpus: Gpus = 0,
    track: Track = None,
) -> None:
    """Train and test models on corpora, and compare them.

    Tables are written as Markdown, LaTeX, CSV and JSON. The epoch is chosen on validation; the test split is
    read once, by the frozen checkpoint. A corpus with folds and no splits is cross-validated. Cut off, the
    same command goes on.
    """
    load_torch()
    from mmerc.config import parse_overrides
    from mmerc.errors import ConfigError
    from mmerc.experiments.benchmark import (
        ANY,
        open_corpora,
        plan_benchmark,
        read_settings,
        row_name,
        watched,
    )
    from mmerc.experiments.runs import require_free

    names = model_names(models)
    opened = open_corpora([Path(path) for path in split_names(corpora, "--corpora")])
    given = read_settings(settings) if settings else {}
    if unused := given.keys() - {ANY, *(corpus.name for corpus in opened)}:
        log.warning("settings for %s are not used", ", ".join(map(str, unused)))
    cells = plan_benchmark(names, opened, out, range(seeds), folds, given, parse_overrides(assignments or []))
    if reference is not None and row_name(reference) not in {cell.name for cell in cells}:
        raise ConfigError(f"--reference {reference} is none of the rows: {', '.join(names)}")
    require_free(out, [run for cell in cells for run in cell.runs])
    seen = [watched(cell, out) for cell in cells] if oracle else []
    failed = run_cells([*cells, *seen], jobs, device, engine, gpus, track)
    for corpus in opened:
        rows, twins = ([cell for cell in some if cell.corpus == corpus.path] for some in (cells, seen))
        show_corpus(corpus, rows, twins, row_name(reference) if reference else None, out)
    complain(failed)


def show_corpus(
    corpus: "Corpus", cells: "list[Cell]", watched: "list[Cell]", reference: str | None, out: Path
) -> None:
    """Print and write the tables of one corpus."""
    from mmerc.experiments.benchmark import tables
    from mmerc.experiments.comparison import METHOD, Comparison, write_report

    found = sorted(results_of(cells), key=lambda r: -r.summary.weighted_f1.mean)
    if not found:
        log.warning("%s: no row has a complete seed yet", corpus.name)
        return
    chosen = {r.cell.name: r.summary.weighted_f1 for r in results_of(watched)}
    comparison = Comparison.of(corpus.name, found, reference)
    grids, records = tables(comparison, corpus, chosen)
    for grid in grids:
        results().print(grid.terminal())
    facts = {"corpus": corpus.name, "reference": comparison.reference, "method": METHOD}
    say_files(write_report(out / corpus.name / "benchmark", grids, records, facts))
