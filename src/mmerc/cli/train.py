"""`mmerc train`: one config on one corpus, over seeds and folds."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from mmerc.config import RunConfig
    from mmerc.experiments.runs import Run

console = Console(highlight=False)


def train(
    model: Annotated[str, typer.Argument(help="A model, as `mmerc models` lists it.")],
    corpus: Annotated[Path, typer.Option(help="Corpus folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the run; must not hold another run.")],
    config: Annotated[
        list[Path] | None,
        typer.Option(help="YAML file, or the name of a shipped config; later ones win. Repeatable."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset of the model, such as refined or official-meld.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as training.epochs=20. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed, or the first of several.", min=0, max=2**32 - 1)] = 0,
    seeds: Annotated[int, typer.Option(help="Number of runs with consecutive seeds.", min=1)] = 1,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="One run per fold, then scores on the pooled test folds.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    jobs: Annotated[int, typer.Option(help="Runs side by side, one thread each.", min=1)] = 1,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events, too.")
    ] = False,
) -> None:
    """Train a model; the epoch is chosen on the validation split, the test split is not read.

    With `--cross-validate` the finished checkpoints are scored on their pooled test folds. Several processes
    share each run under `torchrun --no-python --nproc-per-node 2 mmerc train …`.
    """
    from mmerc.config import merge, parse_overrides, read_yaml
    from mmerc.corpus import Corpus
    from mmerc.distributed import from_first, joined, processes
    from mmerc.errors import ConfigError
    from mmerc.experiments.runs import plan, require_free
    from mmerc.models import choose_modalities, resolve
    from mmerc.shipped import located_config

    layers = [read_yaml(located_config(path)) for path in config or []]
    given = merge(*layers, {"preset": preset} if preset else {}, parse_overrides(assignments or []))
    run_config = resolve(model, given)
    opened = Corpus.open(corpus)
    modalities = choose_modalities(run_config, list(opened.modalities))
    runs = plan(opened, out, range(seed, seed + seeds), cross_validate)
    if tensorboard and jobs > 1:
        raise ConfigError("--tensorboard works with --jobs 1")
    name = f"{model} ({run_config.preset})" if run_config.preset else model
    with joined() as first:
        if jobs > 1 and processes() > 1:
            raise ConfigError("--jobs trains runs side by side, torchrun makes processes share one: choose")
        console.quiet = not first
        from_first(lambda: require_free(out, runs))
        console.print(f"[bold]{name}[/] on {opened.name}: {', '.join(modalities)}; {len(runs)} run(s)")
        with _resumable():
            records = train_runs(corpus, run_config, runs, jobs, resume, device, tensorboard and first)
    if not first:
        return
    _show(records, out)
    if cross_validate:
        from mmerc.cli.evaluate import show_evaluations
        from mmerc.evaluation import evaluate

        show_evaluations(evaluate(out, opened, device=device), f"{name} on {opened.name}, pooled test folds")
    else:
        console.print(f"next: mmerc evaluate {out} --corpus {corpus}")


@contextmanager
def _resumable() -> Iterator[None]:
    """Say what to do after an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: the same command with --resume goes on after the last whole epoch\n")
        raise


def train_runs(
    corpus: Path,
    config: "RunConfig",
    runs: "list[Run]",
    jobs: int = 1,
    resume: bool = False,
    device: str = "auto",
    tensorboard: bool = False,
) -> dict[str, dict[str, Any]]:
    """Train with a progress bar; return the chosen epoch's record of each run, by folder."""
    from mmerc.corpus import Corpus
    from mmerc.experiments.runs import train_in_turn, train_side_by_side

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    records: dict[str, dict[str, Any]] = {}
    with Progress(*columns, console=console, transient=True) as bar:
        if jobs > 1 and len(runs) > 1:
            total = bar.add_task("runs", total=len(runs), note="")
            ended = train_side_by_side(corpus, config, runs, jobs, resume, device)
        else:
            total = None
            opened = Corpus.open(corpus)
            ended = train_in_turn(
                opened, config, runs, resume, device,
                lambda run: make_listener(bar, run, config.training.epochs, tensorboard),
            )  # fmt: skip
        for run, progress in ended:
            records[str(run.folder)] = progress.history[progress.best_epoch - 1]
            if total is not None:
                bar.advance(total)
    return records


def make_listener(bar: Progress, run: "Run", epochs: int, tensorboard: bool) -> Any:
    """Return a listener that draws a run's bar, with the losses and the validation scores."""
    from mmerc.training import Listener

    writer = _tensorboard_writer(run.folder) if tensorboard else None
    name = "" if run.fold is None else f" fold {run.fold}"
    task = bar.add_task(f"seed {run.seed}{name}", total=None, note="")

    class Drawing(Listener):
        scores = ""

        def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
            terms = " ".join(f"{k} {v:.3f}" for k, v in losses.items())
            text = f"seed {run.seed}{name} epoch {epoch}/{epochs}"
            bar.update(task, total=total, completed=done, description=text, note=f"{terms}{self.scores}")

        def epoch(self, record: dict[str, Any]) -> None:
            validation = record["validation"]
            self.scores = f" │ validation wF1 {100 * validation['weighted_f1']:.2f}"
            if writer is not None:
                for key, value in record["losses"].items():
                    writer.add_scalar(f"loss/{key}", value, record["epoch"])
                for key in ("weighted_f1", "macro_f1", "accuracy"):
                    writer.add_scalar(f"validation/{key}", validation[key], record["epoch"])
                writer.flush()

    return Drawing()


def _tensorboard_writer(folder: Path) -> Any:
    from mmerc.extras import needed

    with needed("--tensorboard", "mmerc[tensorboard]"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder / "tensorboard"))


def _show(records: dict[str, dict[str, Any]], out: Path) -> None:
    """Print the scores of the chosen epochs, and what is suspicious about them."""
    console.print(_table(records, out))
    for text in _warnings(records):
        console.print(f"[yellow]warning:[/] {text}")


def _table(records: dict[str, dict[str, Any]], out: Path) -> Table:
    table = Table(
        "run", "epoch", "weighted F1", "macro F1", "accuracy", title="Validation, at the chosen epoch"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for folder, record in sorted(records.items()):
        scores = record["validation"]
        numbers = [f"{100 * scores[k]:.2f}" for k in ("weighted_f1", "macro_f1", "accuracy")]
        name = str(Path(folder).relative_to(out)) if Path(folder) != out else str(out)
        table.add_row(name, str(record["epoch"]), *numbers)
    return table


def _warnings(records: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for folder, record in sorted(records.items()):
        lines += [f"{folder}: {text}" for text in record["warnings"]]
    return lines if len(lines) <= 5 else [*lines[:5], f"… and {len(lines) - 5} more, in the runs' log.jsonl"]
