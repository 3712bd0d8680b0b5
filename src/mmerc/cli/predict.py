"""`mmerc predict`: the emotion of every utterance of a chat."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from mmerc.cli.measuring import CacheFile, Jobs, metering

if TYPE_CHECKING:
    from mmerc.conversation import Prediction


def predict(
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CHECKPOINT] CONVERSATION",
            help="A checkpoint folder or a model in the box (`meld-text` if none is named), a transcript "
            "(CSV, JSON, SRT, WebVTT, ELAN, TextGrid, `Speaker: text` lines, …) or, with --transcript, an "
            "audio or video recording.",
        ),
    ],
    transcript: Annotated[
        Path | None, typer.Option(help="Who says what when in the recording: SRT, WebVTT, WhisperX JSON, …")
    ] = None,
    format: Annotated[Literal["table", "json", "csv"], typer.Option(help="What to write.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write there instead of to the terminal.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page to look at, too (`mmerc report` has more options).")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the visual recipe, if they are not where it says.")
    ] = None,
    face_detector: Annotated[
        Path | None,
        typer.Option(metavar="ONNX", help="The face detector, if it is not where the recipe says."),
    ] = None,
    jobs: Jobs = None,
    cache: CacheFile = None,
) -> None:
    """Predict each utterance's emotion, how sure, which modalities counted, and how much context entered."""
    from mmerc.errors import ConfigError
    from mmerc.features.extractors import Files
    from mmerc.recognizer import load, read_conversation, refuse_recording
    from mmerc.report import explain, write_report
    from mmerc.storage import write_text
    from mmerc.transcripts import read_transcript, render, write_predictions

    if format == "table" and out is not None:
        raise ConfigError("--out needs --format json or csv")
    checkpoint, conversation = checkpoint_and_conversation(given)
    recognizer = load(checkpoint, device)
    if transcript is None:
        refuse_recording(conversation)
        predictions = recognizer.predict_many(read_transcript(conversation))
    else:
        spoken = read_conversation(transcript)
        with metering(jobs, "processes", cache) as meter:
            files = Files(weights, face_detector)
            predictions = [recognizer.predict_recording(spoken, conversation, meter, files)]
    tell_what_was_used(predictions)
    if html is not None:
        explanations = [explain(recognizer, prediction) for prediction in predictions]
        media = None if transcript is None else conversation
        model = f"{recognizer.checkpoint.run.model}, trained on {recognizer.checkpoint.info.corpus}"
        write_report(html, explanations, media=media, model=model)
    if format == "table":
        for prediction in predictions:
            Console(highlight=False).print(render(prediction))
        return
    text = write_predictions(predictions, format)
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)


def checkpoint_and_conversation(given: "Sequence[Path]") -> tuple[Path, Path]:
    """Return the two arguments; the first may be left out."""
    from mmerc.shipped import DEFAULT

    if len(given) > 2:
        raise typer.BadParameter(f"expected a checkpoint and a conversation, not {len(given)} names")
    return (Path(DEFAULT), given[0]) if len(given) == 1 else (given[0], given[1])


def tell_what_was_used(predictions: "Sequence[Prediction]") -> None:
    """Say on stderr in how many utterances each modality was there, and why not in the others."""
    total = sum(map(len, predictions))
    parts = []
    for name in predictions[0].modalities:
        covered = [prediction.modalities[name] for prediction in predictions]
        why = ", ".join(dict.fromkeys(c.absent for c in covered if c.absent))
        parts.append(f"{name} in {sum(c.present for c in covered)} of {total}" + (f" ({why})" if why else ""))
    sys.stderr.write(f"used: {'; '.join(parts)}\n")
