"""`mmerc evaluate`: scores of frozen checkpoints on a test split."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmerc.cli.common import Device
from mmerc.cli.outputs import output_file, require_apart
from mmerc.cli.terminal import load_torch, results, status

if TYPE_CHECKING:
    from mmerc.evaluation import Evaluation


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="A checkpoint, or a run with several seeds or folds."),
    ],
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="Corpus folder.")],
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of a corpus without folds.")] = "test",
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=output_file, help="Write the scores as JSON."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=output_file, help="Write the scores as Markdown."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Score a checkpoint on a test split.

    Accuracy, weighted and macro F1, each class, confusion, and calibration error. Several seeds give mean ±
    sd. The folds of a cross-validation are pooled.
    """
    require_apart([json, markdown])
    load_torch()
    from mmerc.corpus import Corpus
    from mmerc.evaluation import evaluate as score_runs
    from mmerc.metrics import summarise
    from mmerc.storage import write_json, write_text

    opened = Corpus.open(corpus)
    with status("testing"):
        evaluations = score_runs(checkpoint, opened, split, device)
    which = split if evaluations[0].fold_count == 0 else "pooled test folds"
    title = f"{checkpoint} on {opened.name}, {which}"
    show_evaluations(evaluations, title)
    result = evaluations[0].scores if len(evaluations) == 1 else summarise([e.scores for e in evaluations])
    if json is not None:
        seeds = {str(e.seed): e.scores.to_dict() for e in evaluations}
        write_json(json, {"title": title, "scores": result.to_dict(), "seeds": seeds})
    if markdown is not None:
        write_text(markdown, f"# {title}\n\n{result.to_markdown()}")


def show_evaluations(evaluations: "Sequence[Evaluation]", title: str) -> None:
    """Print the scores of one seed, or mean ± sd over several."""
    from mmerc.metrics import render, summarise

    result = evaluations[0].scores if len(evaluations) == 1 else summarise([e.scores for e in evaluations])
    results().print(title, style="bold")
    results().print(render(result))
