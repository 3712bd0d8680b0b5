"""`mmerc ablate`: what each part, each modality and the sight of later utterances is worth."""

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
    Preset,
    Seeds,
    SettingsFile,
    StudyFolder,
    Track,
    complain,
    run_cells,
    say_files,
    split_names,
)
from mmerc.cli.terminal import load_torch, results, status

if TYPE_CHECKING:
    from mmerc.experiments.ablation import Plan

log = logging.getLogger(__name__)


def ablate(
    corpora: Corpora,
    out: StudyFolder,
    tables: Annotated[
        str, typer.Option(metavar="A,B,…", help="Comma-separated: components, modalities, missing, causal.")
    ] = "components,modalities,missing",
    preset: Preset = None,
    models: Annotated[
        str,
        typer.Option(
            metavar="A,B,…",
            help="For missing and causal: names, comma-separated; `name:preset` for a preset.",
        ),
    ] = "df-erc",
    dropout: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="For missing: chance that training hides a modality.", min=0.01, max=0.99
        ),
    ] = 0.3,
    seeds: Seeds = 5,
    folds: Folds = False,
    settings: SettingsFile = None,
    assignments: Assignments = None,
    jobs: Jobs = 0,
    device: Device = "auto",
    engine: Engines = "processes",
    gpus: Gpus = 0,
    track: Track = None,
) -> None:
    """Take parts and modalities away, and see what they were worth.

    DF-ERC is trained without each of its parts and on each set of modalities; tables stand beside the
    paper's. `components` and `modalities` are Tables 2 and 3 of the DF-ERC paper. `missing` hides modalities
    at test, `causal` takes the sight of later utterances away. Cut off, the same command goes on.
    """
    load_torch()
    from mmerc.config import parse_overrides
    from mmerc.experiments.ablation import Variants, plan_ablations
    from mmerc.experiments.benchmark import open_corpora, read_settings

    wanted, names = split_names(tables, "--tables"), split_names(models, "--models")
    given = read_settings(settings) if settings else {}
    layers = [{"preset": preset} if preset else {}, parse_overrides(assignments or [])]
    plans = [
        plan_ablations(wanted, Variants(corpus, out, range(seeds), folds, given, *layers), names, dropout)
        for corpus in open_corpora([Path(path) for path in split_names(corpora, "--corpora")])
    ]
    for plan in plans:
        for note in plan.notes:
            log.warning("left out: %s", note)
    failed = run_cells([cell for plan in plans for cell in plan.cells], jobs, device, engine, gpus, track)
    for plan in plans:
        show_plan(plan, out, device)
    complain(failed)


def show_plan(plan: "Plan", out: Path, device: str) -> None:
    """Print and write the tables of one corpus."""
    from mmerc.experiments.ablation_tables import show
    from mmerc.experiments.comparison import write_report
    from mmerc.processes import one_thread

    for table in plan.tables:
        with one_thread(), status(f"testing {plan.corpus.name}: {table.name}"):
            grids, records, facts = show(table, plan.corpus, device)
        if not grids:
            log.warning("%s, %s: no row has a complete seed yet", plan.corpus.name, table.name)
            continue
        for grid in grids:
            results().print(grid.terminal())
        say_files(write_report(out / plan.corpus.name / table.name, grids, records, facts))
