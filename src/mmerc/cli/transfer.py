"""`mmerc transfer`: trained on one corpus, tested on another."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from mmerc.cli.common import Device
from mmerc.cli.studies import (
    Assignments,
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
    results_of,
    run_cells,
    say_files,
    split_names,
)
from mmerc.cli.terminal import load_torch, results, status

log = logging.getLogger(__name__)


SeveralCorpora = Annotated[
    str,
    typer.Option(metavar="DIR,DIR,…", help="Corpus folders with the same labels, comma-separated."),
]
ModelName = Annotated[str, typer.Option(metavar="NAME", help="A model, as `mmerc models` lists it.")]
Modalities = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,…", help="What to read, comma-separated; by default all that the corpora share."
    ),
]


def transfer(
    corpora: SeveralCorpora,
    out: StudyFolder,
    model: ModelName = "df-erc",
    preset: Preset = None,
    modalities: Modalities = None,
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
    """Train a model on each corpus, and test it on all.

    Each corpus is trained on by its own protocol, and tested on its test split, or on all its test folds. Cut
    off, the same command goes on.
    """
    load_torch()
    from mmerc.config import parse_overrides
    from mmerc.experiments.benchmark import open_corpora, read_settings, settings_for
    from mmerc.experiments.comparison import write_report
    from mmerc.experiments.transfer import (
        METHOD,
        Target,
        grids,
        matrix,
        plan_transfer,
        require_same_labels,
        share_modalities,
    )
    from mmerc.processes import one_thread

    opened = open_corpora([Path(path) for path in split_names(corpora, "--corpora")])
    require_same_labels(opened)
    given = read_settings(settings) if settings else {}
    layers = [{"preset": preset} if preset else {}, parse_overrides(assignments or [])]
    if modalities is not None:
        layers.append({"modalities": split_names(modalities, "--modalities")})
    shared = share_modalities(model, opened, [settings_for(given, "*", model), *layers])
    log.info("%s reads %s", model, ", ".join(shared.names))
    for name, reason in shared.left_out.items():
        log.warning("left out: %s: %s", name, reason)
    for warning in shared.warnings:
        log.warning("%s", warning)
    cells = plan_transfer(model, opened, shared.names, out, range(seeds), folds, given, *layers)
    failed = run_cells(cells, jobs, device, engine, gpus, track)
    if found := results_of(cells):
        targets = [Target.of(corpus, folds) for corpus in opened]
        with one_thread(), status("testing on the other corpora"):
            records = matrix(found, targets, device)
        tables = grids(model, shared.names, records, targets)
        for grid in tables:
            results().print(grid.terminal())
        facts = {"model": model, "modalities": shared.names, "method": METHOD}
        say_files(write_report(out / "transfer", tables, records, facts))
    complain(failed)
