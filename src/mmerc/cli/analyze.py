"""`mmerc analyze`: the paper's figures, and further analyses, of frozen checkpoints."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)


def analyze(
    run: Annotated[Path, typer.Argument(help="A checkpoint, or a run with several seeds or folds.")],
    corpus: Annotated[Path, typer.Option(help="Corpus folder.")],
    out: Annotated[Path, typer.Option(help="Folder for figures, their data, README.md and analysis.json.")],
    compare: Annotated[
        Path | None,
        typer.Option(
            help="Folder with ablations in without-utterance, without-modality, full-context, zero-context."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of a corpus without folds.")] = "test",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    """Draw what the paper's figures 6, 7, 8, 10 and 11 show, calibration, shifts, speakers and confusions.

    Every figure is written as PNG, SVG and CSV, and said in a sentence: what the paper saw, and what this
    run shows.
    """
    from mmerc.analysis.findings import Skipped
    from mmerc.analysis.frozen_run import read_run
    from mmerc.analysis.report import analyze as analyze_run
    from mmerc.corpus import Corpus
    from mmerc.errors import CheckpointError, ConfigError

    if any((out / name).exists() for name in ("checkpoint.json", "corpus.json")):
        raise ConfigError(f"--out: {out} is a checkpoint or a corpus; choose a folder of its own")
    if compare is not None and not compare.is_dir():
        raise CheckpointError(f"--compare: {compare} is not a folder")
    with console.status("predicting"):
        frozen = read_run(run, Corpus.open(corpus), split, device)
    for result in analyze_run(frozen, compare, out):
        console.print(result.title, style="bold")
        if isinstance(result, Skipped):
            console.print(f"  skipped: {result.reason}", style="yellow")
            continue
        for text in (result.paper, result.here, *result.notes):
            console.print(f"  {text}")
    console.print(f"written: {out / 'README.md'}", style="bold")
