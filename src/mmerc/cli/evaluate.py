"""`mmerc evaluate`: scores of frozen checkpoints on a test split."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from mmerc.evaluation import Evaluation

console = Console(highlight=False)


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run with several seeds or folds.")],
    corpus: Annotated[Path, typer.Option(help="Corpus folder.")],
    split: Annotated[str, typer.Option(help="Split of a corpus without folds.")] = "test",
    json: Annotated[Path | None, typer.Option(help="Write the scores as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the scores as Markdown.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    """Score a checkpoint: accuracy, weighted and macro F1, each class, confusion, calibration error.

    Several seeds give mean ± sd. The folds of a cross-validation are pooled.
    """
    from mmerc.corpus import Corpus
    from mmerc.evaluation import evaluate as score_runs
    from mmerc.metrics import summarise
    from mmerc.storage import write_json, write_text

    opened = Corpus.open(corpus)
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
    console.rule(title)
    console.print(render(result))
