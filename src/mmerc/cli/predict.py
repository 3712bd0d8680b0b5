"""`mmerc predict`: the emotion of every utterance of a chat or a recording."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from mmerc.cli.measuring import CacheFile, Jobs
from mmerc.cli.reading import Device, FaceDetector, Given, Transcript, Weights, answer


def predict(
    given: Given,
    transcript: Transcript = None,
    format: Annotated[Literal["table", "json", "csv"], typer.Option(help="What to write.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write there instead of to the terminal.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page to look at, too (`mmerc report` has more options).")
    ] = None,
    device: Device = "auto",
    weights: Weights = None,
    face_detector: FaceDetector = None,
    jobs: Jobs = None,
    cache: CacheFile = None,
) -> None:
    """Predict each utterance's emotion, how sure, which modalities counted, and how much context entered."""
    from mmerc.errors import ConfigError
    from mmerc.storage import write_text
    from mmerc.transcripts import render, write_predictions

    if format == "table" and out is not None:
        raise ConfigError("--out needs --format json or csv")
    answered = answer(given, transcript, device, weights, face_detector, jobs, cache)
    if html is not None:
        from mmerc.report import explain, write_report

        explanations = [explain(answered.recognizer, prediction) for prediction in answered.predictions]
        write_report(html, explanations, media=answered.recording, model=answered.model)
    if format == "table":
        for prediction in answered.predictions:
            Console(highlight=False).print(render(prediction))
        return
    text = write_predictions(answered.predictions, format)
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
