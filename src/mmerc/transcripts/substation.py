"""SubStation Alpha (`.ass`, `.ssa`): the Dialogue lines; comments and drawings are left out."""

import re
from collections.abc import Iterator
from pathlib import Path

from mmerc.errors import ConversationError
from mmerc.transcripts.clock import clock_ms
from mmerc.transcripts.cues import Cue, Turn, cue_rows, lines_of
from mmerc.transcripts.rows import Row, short

_COLUMNS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
_OTHER_EVENTS = ("Comment", "Picture", "Sound", "Movie", "Command")
_OVERRIDE = re.compile(r"\{[^{}]*\}")
_DRAWING = re.compile(r"\{[^{}]*\\p[1-9]")


def substation_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of SubStation subtitles; the speaker is the field Name (Actor)."""
    return cue_rows(list(_cues(str(path), text)))


def _cues(path: str, text: str) -> Iterator[Cue]:
    columns, section = _COLUMNS, ""
    for number, line in enumerate(lines_of(text), start=1):
        kind, _, rest = line.strip().partition(":")
        if kind.startswith("["):
            section = kind.casefold()
        elif kind == "Format" and section == "[events]":
            columns = [name.strip().casefold() for name in rest.split(",")]
        elif kind == "Dialogue":
            yield _cue(f"{path}: line {number}", number, columns, rest)
        elif section == "[events]" and kind and kind not in _OTHER_EVENTS and not kind.startswith((";", "!")):
            raise ConversationError(
                f"{path}: line {number}: expected Dialogue or Comment, not {short(line.strip())}"
            )


def _cue(where: str, number: int, columns: list[str], line: str) -> Cue:
    values = line.split(",", len(columns) - 1)
    fields = dict(zip(columns, values, strict=False))
    if len(values) < len(columns) or not {"start", "end", "text"} <= fields.keys():
        raise ConversationError(f"{where}: expected the fields {', '.join(columns)}, not {short(line)}")
    start, end = clock_ms(fields["start"]), clock_ms(fields["end"])
    if start is None or end is None:
        times = f"{fields['start']}, {fields['end']}"
        raise ConversationError(f"{where}: expected times such as 0:01:02.50, not {short(times)}")
    shown = "" if _DRAWING.search(fields["text"]) else _OVERRIDE.sub("", fields["text"])
    shown = shown.replace(r"\N", "\n").replace(r"\n", "\n").replace(r"\h", " ")
    speaker = fields.get("name", fields.get("actor", "")).strip()
    return Cue(number, start, end, [Turn(speaker, shown)])
