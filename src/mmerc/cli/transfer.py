"""`mmerc transfer`: trained on one corpus, tested on another."""

from pathlib import Path
from typing import Annotated

import typer

from mmerc.cli.studies import (
    Assignments,
    Device,
    Engines,
    Folds,
    Gpus,
    Jobs,
    Seeds,
    SettingsFile,
    StudyFolder,
    complain,
    console,
    results_of,
    run_cells,
    say_files,
    split_names,
)


def transfer(
    corpora: Annotated[str, typer.Option(help="Corpus folders with the same labels, comma-separated.")],
    out: StudyFolder,
    model: Annotated[str, typer.Option(help="A model, as `mmerc models` lists it.")] = "df-erc",
    preset: Annotated[
        str | None, typer.Option(help="Preset of the model, such as refined or official-meld.")
    ] = None,
    modalities: Annotated[
        str | None, typer.Option(help="What to read, comma-separated; by default all that the corpora share.")
    ] = None,
    seeds: Seeds = 5,
    folds: Folds = False,
    settings: SettingsFile = None,
    assignments: Assignments = None,
    jobs: Jobs = 0,
    device: Device = "auto",
    engine: Engines = "processes",
    gpus: Gpus = 0,
) -> None:
    """Train a model on each corpus, test it on all; the matrix train × test.

    Each corpus is trained on by its own protocol, and tested on its test split, or on all its test folds. Cut
    off, the same command goes on.
    """
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
    console.print(f"{model} reads {', '.join(shared.names)}")
    for name, reason in shared.left_out.items():
        console.print(f"[yellow]left out:[/] {name}: {reason}")
    for warning in shared.warnings:
        console.print(f"[yellow]warning:[/] {warning}")
    cells = plan_transfer(model, opened, shared.names, out, range(seeds), folds, given, *layers)
    failed = run_cells(cells, jobs, device, engine, gpus)
    if results := results_of(cells):
        targets = [Target.of(corpus, folds) for corpus in opened]
        with one_thread(), console.status("testing on the other corpora"):
            records = matrix(results, targets, device)
        tables = grids(model, shared.names, records, targets)
        for grid in tables:
            console.print(grid.terminal())
        facts = {"model": model, "modalities": shared.names, "method": METHOD}
        say_files(write_report(out / "transfer", tables, records, facts))
    complain(failed)
