"""Predictions written out: JSON and CSV for programs, a table for the terminal."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mmerc.conversation import Emotion, Prediction, Utterance, frame

LOW_CONFIDENCE = 0.5
Further = Mapping[str, Sequence[str]]
NONE: Further = {}

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


def as_text(prediction: Prediction, most: int | None = None, further: Further = NONE) -> str:
    """Return a prediction as a table of plain characters, in which no line is cut or folded.

    Whatever mmerc adds to what was said is ASCII, so that it can be printed anywhere.

    Args:
        prediction: what is shown
        most: how many turns are shown; all by default
        further: more columns, a cell for each turn
    """
    rows = list(prediction)[:most]
    known = [c for c in _columns(prediction, bars=False) if any(c.cell(*row) is not None for row in rows)]
    header = ["#", *(column.name for column in known), *further]
    right = ["right", *(column.justify for column in known), *("left" for _ in further)]
    lines = [header]
    for index, row in enumerate(rows):
        cells = (column.cell(*row) for column in known)
        lines.append(
            [str(index + 1), *(c.plain if c else "" for c in cells), *(f[index] for f in further.values())]
        )
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    shown = [
        "  ".join(_filled(*cell) for cell in zip(line, widths, right, strict=True)).rstrip() for line in lines
    ]
    if len(rows) < len(prediction):
        shown.append(f"... and {len(prediction) - len(rows)} more turns: print() shows all")
    if any(emotion.confidence < LOW_CONFIDENCE for _, emotion in rows):
        shown.append(f"? less than {LOW_CONFIDENCE:.0%} sure")
    return "\n".join([prediction.conversation.id, *shown])


def _filled(cell: str, width: int, justify: str) -> str:
    blanks = " " * (width - cell_len(cell))
    return blanks + cell if justify == "right" else cell + blanks


class _Column(NamedTuple):
    name: str
    cell: Callable[[Utterance, Emotion], Text | None]
    justify: Literal["left", "right"] = "left"
    wraps: bool = False  # gives way when the terminal is narrow


def _columns(prediction: Prediction, bars: bool = True) -> list[_Column]:
    modalities = dict.fromkeys(m for _, emotion in prediction for m in emotion.contributions or {})
    return [
        _Column("time", lambda u, e: None if u.start_ms is None else Text(_clock(u.start_ms)), "right"),
        _Column("speaker", lambda u, e: _line(u.speaker) if u.speaker else None),
        _Column("utterance", lambda u, e: _line(u.text) if u.text else None, wraps=True),
        _Column("gold", lambda u, e: None if u.label is None else _line(u.label)),
        _Column("emotion", lambda u, e: _verdict(e)),
        _Column("sure", lambda u, e: Text(f"{e.confidence:.0%}"), "right"),
        *(_Column(m, partial(_share, m, bars), "right") for m in modalities),
        _Column(
            "context",
            lambda u, e: None if e.context_weight is None else _percent(e.context_weight, bars),
            "right",
        ),
    ]


def _line(text: str) -> Text:
    """Put a text on one line; control characters would reach the terminal as commands."""
    return Text(" ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split()), overflow="fold")


def _verdict(emotion: Emotion) -> Text:
    label = _line(emotion.label)
    return label.append(" ?", style="bold yellow") if emotion.confidence < LOW_CONFIDENCE else label


def _share(modality: str, bars: bool, utterance: Utterance, emotion: Emotion) -> Text | None:
    if emotion.contributions is None or modality not in emotion.contributions:
        return None
    share = emotion.contributions[modality]
    if share is None:
        return Text("–" if bars else "-")
    return _percent(share, bars)


def _percent(share: float, bar: bool) -> Text:
    if not bar:
        return Text(f"{share:.0%}")
    level = min(int(share * len(_LEVELS)), len(_LEVELS) - 1)
    return Text(f"{_LEVELS[level]}{share:4.0%}")


def _clock(milliseconds: int) -> str:
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
