"""`mmerc predict`: the emotion of every utterance of a chat."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    conversation: Annotated[Path, typer.Argument(help="CSV, JSONL, JSON, or `Speaker: text` lines.")],
    format: Annotated[Literal["table", "json", "csv"], typer.Option(help="What to write.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write there instead of to the terminal.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    """Predict each utterance's emotion, how sure, which modalities counted, and how much context entered."""
    from mmerc.errors import ConfigError
    from mmerc.recognizer import load
    from mmerc.storage import write_text
    from mmerc.transcripts import read_transcript, render, write_predictions

    if format == "table" and out is not None:
        raise ConfigError("--out needs --format json or csv")
    conversations = read_transcript(conversation)
    predictions = load(checkpoint, device).predict_many(conversations)
    if format == "table":
        for prediction in predictions:
            Console(highlight=False).print(render(prediction))
        return
    text = write_predictions(predictions, format)
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
