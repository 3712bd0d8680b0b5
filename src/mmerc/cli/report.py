"""`mmerc report`: the emotions of a conversation as a page to look at."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmerc.cli.measuring import CacheFile, Jobs, metering
from mmerc.cli.predict import checkpoint_and_conversation, tell_what_was_used


def report(
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CHECKPOINT] CONVERSATION",
            help="A checkpoint folder or a model in the box (`meld-text` if none is named), a transcript "
            "(CSV, JSON, SRT, WebVTT, ELAN, TextGrid, `Speaker: text` lines, …) or, with --transcript, an "
            "audio or video recording.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where to write the page.")] = Path("report.html"),
    transcript: Annotated[
        Path | None, typer.Option(help="Who says what when in the recording: SRT, WebVTT, WhisperX JSON, …")
    ] = None,
    media: Annotated[
        Path | None,
        typer.Option(
            help="The recording of a transcript, to be played; its sound and pictures are not read."
        ),
    ] = None,
    thumbnails: Annotated[bool, typer.Option(help="Show a small picture of each turn of a video.")] = True,
    embed: Annotated[
        bool, typer.Option("--embed", help="Put the recording into the page, up to 8 MiB.")
    ] = False,
    influences: Annotated[
        int, typer.Option(help="How many turns are named that mattered to a turn; 0 saves the search.", min=0)
    ] = 5,
    title: Annotated[str | None, typer.Option(help="What stands above the page.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
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
    """Write an HTML page: which emotion, when, who, how sure, and because of what.

    The page is one file, which works without a network. A recording is not part of it: keep it where it is,
    or use --embed.
    """
    from mmerc.errors import ConfigError
    from mmerc.features.extractors import Files
    from mmerc.recognizer import load, read_conversation, refuse_recording
    from mmerc.report import explain, write_report
    from mmerc.report.page import TITLE
    from mmerc.transcripts import read_transcript

    if transcript is not None and media is not None:
        raise ConfigError("--media goes with a transcript alone; with --transcript, the recording is played")
    checkpoint, conversation = checkpoint_and_conversation(given)
    if transcript is None:
        refuse_recording(conversation)
        recognizer = load(checkpoint, device)
        predictions = recognizer.predict_many(read_transcript(conversation))
    else:
        recognizer, media = load(checkpoint, device), conversation
        spoken = read_conversation(transcript)
        with metering(jobs, "processes", cache) as meter:
            files = Files(weights, face_detector)
            predictions = [recognizer.predict_recording(spoken, conversation, meter, files)]
    info = recognizer.checkpoint
    write_report(
        out,
        [explain(recognizer, prediction, influences) for prediction in predictions],
        media=media,
        title=TITLE if title is None else title,
        model=f"{info.run.model}, trained on {info.info.corpus}",
        thumbnails=thumbnails,
        embed=embed,
    )
    tell_what_was_used(predictions)
    sys.stderr.write(f"{out} is written: open it in a browser\n")
    if open_it:
        typer.launch(str(out))
