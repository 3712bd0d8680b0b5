"""`mmerc train`: one config on one corpus, over seeds and folds."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mmerc.cli.common import Device
from mmerc.cli.outputs import output_folder
from mmerc.cli.progress import Work, duration, progress
from mmerc.cli.studies import Track, say_lost
from mmerc.cli.terminal import load_torch, results, resumable, show_messages

if TYPE_CHECKING:
    from mmerc.config import RunConfig
    from mmerc.experiments.runs import Run
    from mmerc.experiments.tracker_stores import Tracker

log = logging.getLogger(__name__)


ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model, as `mmerc models` lists it.")]
CorpusFolder = Annotated[Path, typer.Option(metavar="DIR", help="Corpus folder.")]
RunFolder = Annotated[
    Path,
    typer.Option(
        metavar="DIR", callback=output_folder, help="Folder for the run; must not hold another run."
    ),
]
ConfigFiles = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="YAML file, or the name of a shipped config; later ones win. Repeatable."
    ),
]
Preset = Annotated[
    str | None, typer.Option(metavar="NAME", help="Preset of the model, such as refined or paper-meld.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Such as training.epochs=20. Repeatable."),
]
FirstSeed = Annotated[
    int, typer.Option(metavar="N", help="Seed, or the first of several.", min=0, max=2**32 - 1)
]
Seeds = Annotated[int, typer.Option(metavar="N", help="Number of runs with consecutive seeds.", min=1)]
CrossValidate = Annotated[
    bool, typer.Option("--cross-validate", help="One run per fold, then scores on the pooled test folds.")
]
Jobs = Annotated[int, typer.Option(metavar="N", help="Runs side by side, one thread each.", min=1)]


def train(
    model: ModelName,
    corpus: CorpusFolder,
    out: RunFolder,
    config: ConfigFiles = None,
    preset: Preset = None,
    assignments: Assignments = None,
    seed: FirstSeed = 0,
    seeds: Seeds = 1,
    cross_validate: CrossValidate = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: Device = "auto",
    jobs: Jobs = 1,
    track: Track = None,
) -> None:
    """Train a model on a corpus.

    The epoch is chosen on the validation split, the test split is not read. With `--cross-validate` the
    finished checkpoints are scored on their pooled test folds. Several processes share each run under
    `torchrun --no-python --nproc-per-node 2 mmerc train …`.
    """
    load_torch()
    from mmerc.config import merge, parse_overrides, read_yaml
    from mmerc.corpus import Corpus
    from mmerc.distributed import from_first, joined, processes
    from mmerc.errors import ConfigError
    from mmerc.experiments.runs import plan, require_free
    from mmerc.experiments.tracking import lost_trackers, read_trackers
    from mmerc.models import choose_modalities, resolve
    from mmerc.shipped import located_config

    layers = [read_yaml(located_config(path)) for path in config or []]
    given = merge(*layers, {"preset": preset} if preset else {}, parse_overrides(assignments or []))
    run_config = resolve(model, given)
    opened = Corpus.open(corpus)
    modalities = choose_modalities(run_config, list(opened.modalities))
    runs = plan(opened, out, range(seed, seed + seeds), cross_validate)
    name = f"{model} ({run_config.preset})" if run_config.preset else model
    with joined() as first:
        if jobs > 1 and processes() > 1:
            raise ConfigError("--jobs trains runs side by side, torchrun makes processes share one: choose")
        if not first:
            show_messages(logging.ERROR)
        trackers = from_first(lambda: read_trackers(track or []))
        from_first(lambda: require_free(out, runs))
        log.info("%s on %s: %s; %d run(s)", name, opened.name, ", ".join(modalities), len(runs))
        with resumable("the same command with --resume goes on after the last whole epoch"):
            records = train_runs(corpus, run_config, runs, jobs, resume, device, trackers)
    if not first:
        return
    _show(records, out)
    say_lost(lost_trackers([run.folder for run in runs]))
    if cross_validate:
        from mmerc.cli.evaluate import show_evaluations
        from mmerc.evaluation import evaluate

        show_evaluations(evaluate(out, opened, device=device), f"{name} on {opened.name}, pooled test folds")
    else:
        log.info("next: mmerc evaluate %s --corpus %s", out, corpus)


def train_runs(
    corpus: Path,
    config: "RunConfig",
    runs: "list[Run]",
    jobs: int = 1,
    resume: bool = False,
    device: str = "auto",
    trackers: "Sequence[Tracker]" = (),
) -> dict[str, dict[str, Any]]:
    """Train and show how far it is; return the chosen epoch's record of each run, by folder."""
    from mmerc.corpus import Corpus
    from mmerc.experiments.runs import train_in_turn, train_side_by_side

    records: dict[str, dict[str, Any]] = {}
    with progress() as begin:
        if jobs > 1 and len(runs) > 1:
            together = begin("runs", len(runs))
            ended = train_side_by_side(corpus, config, runs, jobs, resume, device, trackers)
        else:
            together = None
            opened = Corpus.open(corpus)
            ended = train_in_turn(
                opened, config, runs, resume, device,
                lambda run: make_listener(begin(_named(run), None), run, config.training.epochs), trackers,
            )  # fmt: skip
        for done, (run, trained) in enumerate(ended, start=1):
            records[str(run.folder)] = chosen = trained.history[trained.best_epoch - 1]
            if together is not None:
                together.line(f"{_named(run)}: {_validation(chosen)}, {done} of {len(runs)} runs")
                together.update(done)
    return records


def make_listener(work: Work, run: "Run", epochs: int) -> Any:
    """Return a listener that shows how far a run is, with the losses and the validation scores."""
    from mmerc.training import Listener

    begun = time.monotonic()

    class Showing(Listener):
        before: int | None = None  # epochs that were there already
        scores = ""

        def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
            self.before = epoch - 1 if self.before is None else self.before
            name = f"{_named(run)} epoch {epoch}/{epochs}"
            work.update(done, total=total, name=name, note=f"{_losses(losses)}{self.scores}")

        def epoch(self, record: dict[str, Any]) -> None:
            self.scores = f" │ {_validation(record)}"
            number = record["epoch"]
            left = (time.monotonic() - begun) / (number - (self.before or 0)) * (epochs - number)
            rest = f", at most {duration(left)} left" if number < epochs else ""
            name = f"{_named(run)} epoch {number}/{epochs}"
            work.line(f"{name}: {_losses(record['losses'])}, {_validation(record)}{rest}")

    return Showing()


def _named(run: "Run") -> str:
    return f"seed {run.seed}" + ("" if run.fold is None else f" fold {run.fold}")


def _losses(losses: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())


def _validation(record: dict[str, Any]) -> str:
    return f"validation wF1 {100 * record['validation']['weighted_f1']:.2f}"


def _show(records: dict[str, dict[str, Any]], out: Path) -> None:
    """Print the scores of the chosen epochs, and what is suspicious about them."""
    results().print(_table(records, out))
    for text in _warnings(records):
        log.warning("%s", text)


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
