"""`mmerc analyze`: the paper's figures, and further analyses, of frozen checkpoints."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from mmerc.cli.common import Device
from mmerc.cli.outputs import output_folder
from mmerc.cli.terminal import load_torch, results, status

log = logging.getLogger(__name__)


def analyze(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A checkpoint, or a run with several seeds or folds.")
    ],
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="Corpus folder.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            callback=output_folder,
            help="Folder for figures, their data, README.md and analysis.json.",
        ),
    ],
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder with ablations in without-utterance, without-modality, full-context, zero-context.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of a corpus without folds.")] = "test",
    device: Device = "auto",
) -> None:
    """Draw the paper's figures, and more, of a trained model.

    Figures 6, 7, 8, 10 and 11; calibration, shifts, speakers and confusions. Every figure is written as PNG,
    SVG and CSV, and said in a sentence: what the paper saw, and what this run shows.
    """
    load_torch()
    from mmerc.analysis.findings import Skipped
    from mmerc.analysis.frozen_run import read_run
    from mmerc.analysis.report import analyze as analyze_run
    from mmerc.corpus import Corpus
    from mmerc.errors import CheckpointError, ConfigError

    if any((out / name).exists() for name in ("checkpoint.json", "corpus.json")):
        raise ConfigError(f"--out: {out} is a checkpoint or a corpus; choose a folder of its own")
    if compare is not None and not compare.is_dir():
        raise CheckpointError(f"--compare: {compare} is not a folder")
    console = results()
    with status("predicting"):
        frozen = read_run(run, Corpus.open(corpus), split, device)
    for result in analyze_run(frozen, compare, out):
        console.print(result.title, style="bold")
        if isinstance(result, Skipped):
            console.print(f"  skipped: {result.reason}", style="yellow")
            continue
        for text in (result.paper, result.here, *result.notes):
            console.print(f"  {text}")
    log.info("written: %s", out / "README.md")
