"""`mmerc report`: the emotions of a conversation as a page to look at."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from mmerc.cli.common import Device
from mmerc.cli.measuring import CacheFile, Jobs
from mmerc.cli.outputs import output_file, require_apart
from mmerc.cli.reading import FaceDetector, Given, Transcript, Weights, answer

log = logging.getLogger(__name__)


def report(
    given: Given,
    out: Annotated[
        Path, typer.Option(metavar="FILE", callback=output_file, help="Where to write the page.")
    ] = Path("report.html"),
    transcript: Transcript = None,
    media: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The recording of a transcript, to be played; its sound and pictures are not read.",
        ),
    ] = None,
    thumbnails: Annotated[bool, typer.Option(help="Show a small picture of each turn of a video.")] = True,
    embed: Annotated[
        bool, typer.Option("--embed", help="Put the recording into the page, up to 8 MiB.")
    ] = False,
    influences: Annotated[
        int,
        typer.Option(
            metavar="N", help="How many turns are named that mattered to a turn; 0 saves the search.", min=0
        ),
    ] = 5,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="What stands above the page.")] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    device: Device = "auto",
    weights: Weights = None,
    face_detector: FaceDetector = None,
    jobs: Jobs = None,
    cache: CacheFile = None,
) -> None:
    """Write a page to look at: who feels what, and because of what.

    It says which emotion, when, who, how sure, and which turns mattered. The page is one HTML file, which
    works without a network. A recording is not part of it: keep it where it is, or use --embed.
    """
    from mmerc.errors import ConfigError, MediaError
    from mmerc.report import explain, write_report
    from mmerc.report.page import TITLE

    if transcript is not None and media is not None:
        raise ConfigError("--media goes with a transcript alone; with --transcript, the recording is played")
    if embed and media is None and transcript is None:
        raise ConfigError("--embed puts a recording into the page: name it, with --media or --transcript")
    require_apart([out], [*given, transcript, media])
    if media is not None and not media.is_file():  # before the work, not after it
        raise MediaError(f"the recording {media} does not exist: there would be nothing to play")
    answered = answer(given, transcript, device, weights, face_detector, jobs, cache)
    write_report(
        out,
        [explain(answered.recognizer, prediction, influences) for prediction in answered.predictions],
        media=answered.recording or media,
        title=TITLE if title is None else title,
        model=answered.model,
        thumbnails=thumbnails,
        embed=embed,
    )
    log.info("%s is written: open it in a browser", out)
    if open_it:
        typer.launch(str(out))
