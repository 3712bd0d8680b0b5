"""`mmerc demo`: the whole road on the embedded corpus, in a few minutes."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mmerc.cli.outputs import output_folder
from mmerc.cli.terminal import load_torch, results, resumable

if TYPE_CHECKING:
    from mmerc.evaluation import Evaluation

log = logging.getLogger(__name__)
MODELS = ("text-only", "late-fusion", "df-erc")


def demo(
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", callback=output_folder, help="Folder for the corpus and the runs."),
    ] = Path("demo"),
    seeds: Annotated[int, typer.Option(metavar="N", help="Runs of each model.", min=1)] = 3,
    jobs: Annotated[int, typer.Option(metavar="N", help="Runs side by side, one thread each.", min=1)] = 3,
) -> None:
    """Go the whole road on a generated corpus, in a few minutes.

    The corpus `scripted` is generated, three models are trained and compared, and a conversation is predicted
    and reported. What is already trained in `--out` is not trained again.
    """
    load_torch()
    with resumable():
        _go(out, seeds, jobs)


def _go(out: Path, seeds: int, jobs: int) -> None:
    from mmerc.cli.corpus import add_text
    from mmerc.cli.train import train_runs
    from mmerc.corpora.scripted import generate
    from mmerc.corpus import Corpus
    from mmerc.evaluation import evaluate
    from mmerc.experiments.runs import plan
    from mmerc.features.frozen import frozen_encoder
    from mmerc.models import resolve
    from mmerc.recognizer import load
    from mmerc.report import write_report
    from mmerc.transcripts import render

    folder = out / "scripted"
    if not (folder / "corpus.json").exists():
        log.info("1. generating 240 conversations with text, audio-like and visual-like features")
        generate(folder)
    corpus = Corpus.open(folder)
    if "text" not in corpus.modalities:
        log.info("2. reading their texts with the embedded encoder")
        corpus = add_text(corpus, frozen_encoder("minilm"))
    found: dict[str, list[Evaluation]] = {}
    for number, model in enumerate(MODELS):
        log.info("%d. training %s, %d seeds; the epoch is chosen on validation", 3 + number, model, seeds)
        runs = plan(corpus, out / model, range(seeds), cross_validate=False)
        train_runs(folder, resolve(model), runs, jobs=jobs, resume=True, device="cpu")
        found[model] = evaluate(out / model, corpus, device="cpu")
    results().print(_comparison(found))
    best = plan(corpus, out / "df-erc", range(seeds), cross_validate=False)[0].folder
    longest = max(corpus.split("test"), key=lambda d: corpus.offsets[d + 1] - corpus.offsets[d])
    log.info("6. a conversation of the test split, as DF-ERC reads it")
    recognizer = load(best, "cpu")
    conversation = corpus.conversation(int(longest))
    results().print(render(recognizer.predict(conversation)))
    page = out / "report.html"
    write_report(page, [recognizer.explain(conversation)], title="A conversation of the demo", model="df-erc")
    log.info("7. the same as a page to look at, with the turns that mattered: %s", page)
    chat = _chat(out)
    log.info("8. %s, as `meld-text` reads it, the model in the box", chat)
    results().print(render(load(device="cpu").predict(chat)))
    log.info("next: open %s in a browser", page)
    log.info("      mmerc predict %s --html chat.html  (or a chat of yours)", chat)
    evaluated = out / "df-erc"
    log.info("      mmerc evaluate %s --corpus %s  (each class, confusion, calibration)", evaluated, folder)


def _chat(folder: Path) -> Path:
    """Return the chat that comes with mmerc, copied to where the reader of the demo looks."""
    from mmerc.shipped import CHAT
    from mmerc.storage import write_text

    copy = folder / CHAT.name
    if not copy.exists():
        write_text(copy, CHAT.read_text(encoding="utf-8"))
    return copy


def _comparison(found: "dict[str, list[Evaluation]]") -> Table:
    from mmerc.metrics import summarise

    table = Table(
        "model",
        "weighted F1",
        "macro F1",
        "accuracy",
        title="Test split of `scripted`, mean ± sd, in percent",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for model, evaluations in found.items():
        summary = summarise([e.scores for e in evaluations])
        table.add_row(model, str(summary.weighted_f1), str(summary.macro_f1), str(summary.accuracy))
    return table
