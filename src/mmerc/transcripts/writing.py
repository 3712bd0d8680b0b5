"""Predictions written out: JSON and CSV for programs, a table for the terminal."""

import csv
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mmerc.conversation import Emotion, Prediction, Utterance, frame

LOW_CONFIDENCE = 0.5

_LEVELS = "▁▂▃▄▅▆▇█"


def write_predictions(predictions: Sequence[Prediction], fmt: Literal["json", "csv"]) -> str:
    """Return predictions as the content of a file.

    JSON is a list with one object per conversation (`Prediction.to_dict`), CSV the table of
    `conversation.frame`; a cell is empty where there is no value.
    """
    if fmt == "json":
        found = [prediction.to_dict() for prediction in predictions]
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    # all text in quotes: minimal quoting overlooks a lone carriage return
    return frame(predictions).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")


def render(prediction: Prediction) -> RenderableType:
    """Return a prediction as a table for the terminal.

    A confidence below 50 % is marked with a question mark behind the emotion. A column without any value is
    left out. What is too wide for a terminal is wrapped. Contributions are shown as a bar and percent, "–"
    where the modality is missing.
    """
    rows = list(prediction)
    table = Table(title=Text(prediction.conversation.id), title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("#", justify="right", no_wrap=True)
    shown = [c for c in _columns(prediction) if any(c.cell(u, e) is not None for u, e in rows)]
    for column in shown:
        table.add_column(Text(column.name), justify=column.justify, no_wrap=not column.wraps, overflow="fold")
    for turn, (utterance, emotion) in enumerate(rows, start=1):
        table.add_row(str(turn), *(column.cell(utterance, emotion) or "" for column in shown))
    if any(emotion.confidence < LOW_CONFIDENCE for _, emotion in rows):
        table.caption = Text(f"? less than {LOW_CONFIDENCE:.0%} sure")
        table.caption_justify = "left"
    return table


class _Column(NamedTuple):
    name: str
    cell: Callable[[Utterance, Emotion], Text | None]
    justify: Literal["left", "right"] = "left"
    wraps: bool = False  # gives way when the terminal is narrow


def _columns(prediction: Prediction) -> list[_Column]:
    modalities = dict.fromkeys(m for _, emotion in prediction for m in emotion.contributions or {})
    return [
        _Column("time", lambda u, e: None if u.start_ms is None else Text(_clock(u.start_ms)), "right"),
        _Column("speaker", lambda u, e: _line(u.speaker) if u.speaker else None),
        _Column("utterance", lambda u, e: _line(u.text) if u.text else None, wraps=True),
        _Column("gold", lambda u, e: None if u.label is None else _line(u.label)),
        _Column("emotion", lambda u, e: _verdict(e)),
        _Column("sure", lambda u, e: Text(f"{e.confidence:.0%}"), "right"),
        *(_Column(m, partial(_share, m), "right") for m in modalities),
        _Column(
            "context", lambda u, e: None if e.context_weight is None else _bar(e.context_weight), "right"
        ),
    ]


def _line(text: str) -> Text:
    """Put a text on one line; control characters would reach the terminal as commands."""
    return Text(" ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split()), overflow="fold")


def _verdict(emotion: Emotion) -> Text:
    label = _line(emotion.label)
    return label.append(" ?", style="bold yellow") if emotion.confidence < LOW_CONFIDENCE else label


def _share(modality: str, utterance: Utterance, emotion: Emotion) -> Text | None:
    if emotion.contributions is None or modality not in emotion.contributions:
        return None
    share = emotion.contributions[modality]
    return Text("–") if share is None else _bar(share)


def _bar(share: float) -> Text:
    level = min(int(share * len(_LEVELS)), len(_LEVELS) - 1)
    return Text(f"{_LEVELS[level]}{share:4.0%}")


def _clock(milliseconds: int) -> str:
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
