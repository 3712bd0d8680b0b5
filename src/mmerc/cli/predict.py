"""`mmerc predict`: the emotion of every utterance of a chat or a recording, or of many of them."""

import logging
import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmerc.cli.common import Device
from mmerc.cli.measuring import CacheFile, Jobs, default_cache
from mmerc.cli.outputs import output_file, output_folder, require_apart
from mmerc.cli.progress import progress
from mmerc.cli.reading import (
    STDIN,
    FaceDetector,
    Transcript,
    Weights,
    answer,
    checkpoint_and_others,
)
from mmerc.cli.terminal import load_torch, results, resumable
from mmerc.errors import ConfigError, ConversationError

if TYPE_CHECKING:
    from mmerc.conversation import Prediction
    from mmerc.predictions import Outcome, Setup

log = logging.getLogger(__name__)

Format = Literal["table", "json", "csv"]
Given = Annotated[
    list[Path],
    typer.Argument(
        metavar="[CHECKPOINT] CONVERSATION",
        help="A checkpoint folder, a model in the box (`meld-text` if none is named) or on the Hugging Face "
        "Hub (`name/model`), and a transcript (CSV, JSON, SRT, WebVTT, ELAN, TextGrid, `Speaker: text` "
        "lines, …; - is standard input) or, with --transcript, an audio or video recording. With --out-dir: "
        "any number of transcripts, of recordings with transcripts of the same name beside them, and of "
        "folders with these.",
    ),
]
Formats = Annotated[
    Format | None,
    typer.Option(metavar="table|json|csv", help="What to write; by default a table, with --out-dir JSON."),
]
OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out-dir",
        metavar="DIR",
        callback=output_folder,
        help="Write one file for each conversation file there. What was made before of the same files by the "
        "same checkpoint is left as it is: cut off, the same command goes on.",
    ),
]
EngineName = Literal["processes", "ray"]
Engines = Annotated[
    EngineName,
    typer.Option(metavar="processes|ray", help="With --out-dir, `ray`: on the Ray cluster of RAY_ADDRESS."),
]
Gpus = Annotated[
    float,
    typer.Option(
        metavar="SHARE", help="With `--engine ray`: a worker's share of a GPU, such as 0.25.", min=0, max=1
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="With --out-dir: make anew, and overwrite, what is there.")
]


def predict(
    given: Given,
    transcript: Transcript = None,
    format: Formats = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=output_file, help="Write there instead of to the terminal."),
    ] = None,
    out_folder: OutFolder = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=output_file,
            help="Write a page to look at, too (`mmerc report` has more options).",
        ),
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    face_detector: FaceDetector = None,
    jobs: Jobs = None,
    cache: CacheFile = None,
    engine: Engines = "processes",
    gpus: Gpus = 0,
    force: Force = False,
) -> None:
    """Predict the emotion of every utterance in a conversation.

    It says how sure the model is, which modalities counted, and how much context entered.
    """
    if out_folder is not None:
        from mmerc.features.extractors import Files
        from mmerc.predictions import Setup

        if format == "table" or out or html or transcript:
            raise ConfigError(
                "--out-dir writes JSON or CSV, a file for each conversation file, and takes transcripts from "
                "beside the recordings: leave --format table, --out, --html and --transcript out"
            )
        if STDIN in given:
            raise ConfigError("- is standard input, which --out-dir does not read: name files or folders")
        kept_at = _cache_of_workers(engine, gpus, cache)
        checkpoint, paths = checkpoint_and_others(given)
        files = Files(weights, face_detector)
        setup = Setup(out_folder, checkpoint, format or "json", device, files, kept_at)
        _predict_files(paths, setup, jobs, engine, gpus, force)
        return
    _require_one(given, engine == "ray" or gpus > 0 or force)
    if format in (None, "table") and out is not None:
        raise ConfigError("--out needs --format json or csv")
    require_apart([out, html], [*given, transcript])
    answered = answer(given, transcript, device, weights, face_detector, jobs, cache)
    if html is not None:
        from mmerc.report import explain, write_report

        explanations = [explain(answered.recognizer, prediction) for prediction in answered.predictions]
        write_report(html, explanations, media=answered.recording, model=answered.model)
    _show(answered.predictions, format or "table", out)


def _show(predictions: "Iterable[Prediction]", format: Format, out: Path | None) -> None:
    from mmerc.storage import write_text
    from mmerc.transcripts import render, write_predictions

    if format == "table":
        for prediction in predictions:
            results().print(render(prediction))
        return
    text = write_predictions(list(predictions), format)
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)


def _require_one(given: list[Path], options_of_many: bool) -> None:
    """Refuse what is meant for many files."""
    if options_of_many:
        raise ConfigError("--engine ray, --gpus and --force are for many files: say where to, with --out-dir")
    several = len(given) > 2 or (len(given) == 2 and given[0].is_file())
    if several or (given[-1].is_dir() and not (given[-1] / "checkpoint.json").exists()):
        raise ConfigError(
            f"{'several conversations' if several else f'{given[-1]} is a folder: all that is in it'} can be "
            "predicted with --out-dir DIR, where a file is written for each"
        )


def _cache_of_workers(engine: EngineName, gpus: float, cache: Path | None) -> Path | None:
    """Return where workers keep measurements: on a cluster nowhere, since SQLite wants a disk of its own."""
    if engine == "ray":
        if cache is not None:
            raise ConfigError("--cache is a file of one machine: with --engine ray nothing is kept in it")
        return None
    if gpus:
        raise ConfigError("--gpus goes with --engine ray")
    return cache or default_cache()


def _predict_files(
    paths: Iterable[Path], setup: "Setup", jobs: int | None, engine: EngineName, gpus: float, force: bool
) -> None:
    load_torch()
    from mmerc.cluster import on_cluster
    from mmerc.extraction.engines import in_processes
    from mmerc.optimization import choose_device
    from mmerc.predictions import find_inputs, predict_files
    from mmerc.predictions.work import Engine

    inputs = find_inputs(list(paths))
    if not inputs:
        raise ConversationError("there is nothing to predict: name conversations, or folders of them")
    if engine == "ray":
        workers: Engine = partial(on_cluster, gpus=gpus)
    else:
        choose_device(setup.device)  # a mistake in it is one for all files
        workers = in_processes(jobs or os.cpu_count() or 1)
    outcomes = _shown(predict_files(inputs, setup, workers, force), len(inputs))
    _say_what_became(outcomes, setup.out)


def _shown(outcomes: "Iterable[Outcome]", total: int) -> "list[Outcome]":
    """Show how far it is until all files are done; return what became of them."""
    ended: list[Outcome] = []
    done = failed = 0
    with progress() as begin, resumable():
        files = begin("files", None)
        for outcome in outcomes:
            if outcome.kept:  # takes no time: what is left is reckoned from the others
                total -= 1
            else:
                done += 1
                failed += outcome.error is not None
                note = f"{failed} failed" if failed else outcome.given.path.name
                files.update(done, total=total, note=note)
            ended.append(outcome)
    return ended


def _say_what_became(outcomes: "list[Outcome]", out: Path) -> None:
    """Sum up on stderr, and end the command with the failures.

    Raises:
        ConversationError: something failed.
    """
    done = [outcome for outcome in outcomes if outcome.error is None and not outcome.kept]
    there = sum(outcome.kept for outcome in outcomes)
    log.info("%d file(s) predicted, %d there before: %s", len(done), there, out)
    if done:
        total = sum(outcome.utterances for outcome in done)
        counts = {m: sum(outcome.present[m] for outcome in done) for m in done[0].present}
        log.info("used: %s", "; ".join(f"{m} in {n} of {total}" for m, n in counts.items()))
    if failed := [outcome for outcome in outcomes if outcome.error is not None]:
        lines = "\n".join(map(_told, failed))
        raise ConversationError(
            f"{len(failed)} of {len(outcomes)} files failed; the same command tries them again:\n{lines}"
        )


def _told(outcome: "Outcome") -> str:
    name, reason = str(outcome.given.path), (outcome.error or "").partition("\n")[0]
    return f"  {reason}" if name in reason else f"  {name}: {reason}"
