"""`mmerc demo`: the whole road on the embedded corpus, in a few minutes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mmerc.evaluation import Evaluation

console = Console(highlight=False)
MODELS = ("text-only", "late-fusion", "df-erc")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the corpus and the runs.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(help="Runs of each model.", min=1)] = 3,
    jobs: Annotated[int, typer.Option(help="Runs side by side, one thread each.", min=1)] = 3,
) -> None:
    """Generate the corpus `scripted`, train three models, compare them, predict a conversation and report it.

    What is already trained in `--out` is not trained again.
    """
    from mmerc.cli.corpus import encode_text
    from mmerc.cli.train import train_runs
    from mmerc.corpora.scripted import generate
    from mmerc.corpus import Corpus
    from mmerc.evaluation import evaluate
    from mmerc.experiments.runs import plan
    from mmerc.models import resolve
    from mmerc.recognizer import load
    from mmerc.report import write_report
    from mmerc.transcripts import render

    folder = out / "scripted"
    if not (folder / "corpus.json").exists():
        console.print(
            "[bold]1.[/] generating 240 conversations with text, audio-like and visual-like features"
        )
        generate(folder)
    if "text" not in Corpus.open(folder).modalities:
        console.print("[bold]2.[/] reading their texts with the embedded encoder")
        encode_text(folder)
    corpus = Corpus.open(folder)
    found: dict[str, list[Evaluation]] = {}
    for number, model in enumerate(MODELS):
        console.print(
            f"[bold]{3 + number}.[/] training {model}, {seeds} seeds; the epoch is chosen on validation"
        )
        runs = plan(corpus, out / model, range(seeds), cross_validate=False)
        train_runs(folder, resolve(model), runs, jobs=jobs, resume=True, device="cpu")
        found[model] = evaluate(out / model, corpus, device="cpu")
    console.print(_comparison(found))
    best = plan(corpus, out / "df-erc", range(seeds), cross_validate=False)[0].folder
    longest = max(corpus.split("test"), key=lambda d: corpus.offsets[d + 1] - corpus.offsets[d])
    console.print("[bold]6.[/] a conversation of the test split, as DF-ERC reads it")
    recognizer = load(best, "cpu")
    conversation = corpus.conversation(int(longest))
    console.print(render(recognizer.predict(conversation)))
    page = out / "report.html"
    write_report(page, [recognizer.explain(conversation)], title="A conversation of the demo", model="df-erc")
    console.print(f"[bold]7.[/] the same as a page to look at, with the turns that mattered: {page}")
    chat = _chat(out)
    console.print(f"[bold]8.[/] {chat}, as `meld-text` reads it, the model in the box")
    console.print(render(load(device="cpu").predict(chat)))
    console.print(
        f"next: open {page} in a browser\n"
        f"      mmerc predict {chat} --html chat.html  (or a chat of yours)\n"
        f"      mmerc evaluate {out / 'df-erc'} --corpus {folder}  (each class, confusion, calibration)"
    )


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
