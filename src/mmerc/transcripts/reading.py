"""Transcripts that people have: chats as CSV, JSON, JSON Lines or plain text, read into conversations.

The form follows the file's suffix: `.csv` and `.tsv` are tables with a header, `.json` is one document,
`.jsonl` and `.ndjson` hold one object per line, and everything else is plain `Speaker: text` lines.
`FIELDS` lists the columns and keys that are read: case does not matter, and where a file has several
names of one field, the first in the list is taken. Utterances that name a `dialogue_id` are gathered into
conversations in order of first appearance; without it, a file is one conversation named after the file.
"""

import codecs
import difflib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import from_json

from mmerc.conversation import Conversation, Utterance
from mmerc.errors import ConversationError
from mmerc.transcripts.plain import read_lines

FIELDS = {
    "text": ("text", "utterance", "sentence", "message", "content"),
    "speaker": ("speaker", "name", "author", "from", "user"),
    "dialogue_id": ("dialogue_id", "dialogue", "conversation_id", "conversation"),
    "label": ("label", "emotion"),
    "start_ms": ("start_ms",),
    "end_ms": ("end_ms",),
    "start": ("start", "start_s", "start_seconds"),  # in seconds
    "end": ("end", "end_s", "end_seconds"),
    "features": ("features",),  # JSON only: modality → list of numbers
}

_UTTERANCES = ("utterances", "segments")  # where a JSON object keeps its utterances; WhisperX says segments
_BOMS = {  # the UTF-32 mark begins with the UTF-16 one, so it comes first
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class _Row(NamedTuple):
    """The fields of one utterance as the file has them, and where they stand."""

    where: str
    fields: Mapping[str, Any]
    dialogue: str | None = None  # the conversation object around it


_Name = Annotated[str, StringConstraints(strip_whitespace=True)]
_Time = Annotated[float, Field(ge=0, le=1e14, allow_inf_nan=False)]
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_Number = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX, allow_inf_nan=False)]
_Vector = Annotated[list[_Number], Field(min_length=1)]


class _Fields(BaseModel):
    """The fields of one utterance, checked."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)
    text: str | None = None
    speaker: _Name | None = None
    dialogue_id: _Name | None = None
    label: _Name | None = None
    start_ms: _Time | None = None
    end_ms: _Time | None = None
    start: _Time | None = None
    end: _Time | None = None
    features: dict[str, _Vector | None] | None = None

    def utterance(self) -> Utterance:
        """Return the utterance; a modality whose vector is null is missing."""
        vectors = (self.features or {}).items()
        return Utterance(
            text=self.text or "",
            speaker=self.speaker or "",
            label=self.label or None,
            start_ms=_milliseconds(self.start_ms, self.start),
            end_ms=_milliseconds(self.end_ms, self.end),
            features={m: np.array(v, dtype=np.float32) for m, v in vectors if v is not None},
        )


def read_transcript(path: str | Path) -> list[Conversation]:
    """Read the conversations of a transcript file, see the module's docstring for the forms.

    Text is UTF-8, or UTF-16/32 with a byte order mark. An utterance with empty text is kept.

    Raises:
        ConversationError: the file is missing, empty, not text, or has a broken row; says which.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower(), _plain_rows)
    rows = list(read(path, _decoded(path)))
    if not rows:
        raise ConversationError(f"{path} holds no utterances")
    return _conversations(path, rows)


def _decoded(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConversationError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ConversationError(f"{path} is a folder: name the transcript files in it one by one") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConversationError(f"{path} cannot be read: {error}") from None
    encoding = next((name for mark, name in _BOMS.items() if raw.startswith(mark)), None)
    if encoding is None and b"\0" in raw:
        raise ConversationError(
            f"{path} is not a text file: it holds zero bytes (if it is UTF-16: save as UTF-8)"
        )
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConversationError(
            f"{path}: byte {error.start} (0x{raw[error.start]:02x}, line {line}) is not {error.encoding}: "
            "save the file as UTF-8, for example `iconv -f WINDOWS-1252 -t UTF-8 old.txt > new.txt`"
        ) from None


def _table_rows(path: Path, text: str) -> Iterator[_Row]:
    """Yield the rows of a table; ',', ';' or tab, whichever its header has most of, separates."""
    separator = max(",;\t", key=next(iter(text.strip().splitlines()), "").count)
    try:
        # the header is read as a row, so that pandas takes no column for an index
        table = pd.read_csv(
            io.StringIO(text, newline=""),
            sep=separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
        )
    except pd.errors.EmptyDataError:
        return
    except pd.errors.ParserError as error:
        reason = str(error).rpartition("C error: ")[2].strip()
        hint = f"a text that contains {separator!r} or a quote must stand in double quotes"
        raise ConversationError(f"{path}: {reason}; {hint}") from None
    header, *cells = table.to_numpy().tolist()
    fields = _known_fields(((name, i) for i, name in enumerate(header)), f"{path}: the header")
    if "text" not in fields:
        raise ConversationError(_no_text(path, header))
    fields.pop("features", None)
    for number, row in enumerate(cells, start=1):
        found = {field: row[position] for field, position in fields.items()}
        yield _Row(f"row {number}", {k: v for k, v in found.items() if v.strip() or k == "text"})


def _json_lines_rows(path: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"line {number}"
            hint = "a .jsonl file has one object per line; name one long document .json"
            yield from _json_rows(path, _parsed(line, f"{path}: {where}", hint), where, f"-{number}")


def _json_document_rows(path: Path, text: str) -> Iterator[_Row]:
    if not text.strip():
        return
    value = _parsed(
        text, str(path), "a .json file is one document; name a file of one object per line .jsonl"
    )
    if not isinstance(value, list):
        yield from _json_rows(path, value, "the document", "")
        return
    for number, item in enumerate(value, start=1):
        yield from _json_rows(path, item, f"item {number}", f"-{number}")


def _parsed(text: str, where: str, hint: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise ConversationError(f"{where}: not JSON: {error} ({hint})") from None


def _json_rows(path: Path, item: Any, where: str, suffix: str) -> Iterator[_Row]:
    """Yield the utterance that `item` is, or the utterances of the conversation that it is."""
    if not isinstance(item, dict):
        raise ConversationError(f"{path}: {where}: expected an object with a text, not {_kind(item)}")
    key = next((key for key in _UTTERANCES if key in item), None)
    if key is None:
        yield _Row(where, _known_fields(item.items(), f"{path}: {where}"))
        return
    utterances = item[key]
    if not isinstance(utterances, list) or not utterances:
        raise ConversationError(f"{path}: {where}: {key!r} must be a list with at least one utterance")
    names = (item.get(name) for name in ("id", *FIELDS["dialogue_id"]))
    name = next(
        (str(name) for name in names if isinstance(name, str | int) and name != ""), path.stem + suffix
    )
    for number, utterance in enumerate(utterances, start=1):
        place = f"{where}, utterance {number}"
        if not isinstance(utterance, dict):
            raise ConversationError(f"{path}: {place}: expected an object, not {_kind(utterance)}")
        yield _Row(place, _known_fields(utterance.items(), f"{path}: {place}"), name)


def _plain_rows(path: Path, text: str) -> Iterator[_Row]:
    for speech in read_lines(text, str(path)):
        yield _Row(f"line {speech.line}", {"speaker": speech.speaker, "text": speech.text})


_READERS: dict[str, Callable[[Path, str], Iterator[_Row]]] = {
    ".csv": _table_rows,
    ".tsv": _table_rows,
    ".json": _json_document_rows,
    ".jsonl": _json_lines_rows,
    ".ndjson": _json_lines_rows,
}


def _known_fields(found: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Return the values that `FIELDS` knows, under their first names."""
    pairs = [(_plain_name(name), value) for name, value in found]
    names = [name for name, _ in pairs]
    known = [alias for aliases in FIELDS.values() for alias in aliases]
    if twice := next((name for name in known if names.count(name) > 1), None):
        raise ConversationError(f"{where}: {twice!r} is there {names.count(twice)} times: keep one of them")
    values = dict(pairs)
    firsts = {f: next((a for a in aliases if a in values), None) for f, aliases in FIELDS.items()}
    return {field: values[alias] for field, alias in firsts.items() if alias is not None}


def _plain_name(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _no_text(path: Path, names: Sequence[str]) -> str:
    known = {_plain_name(name): name for name in names}
    near = next((n for alias in FIELDS["text"] for n in difflib.get_close_matches(alias, known, n=1)), None)
    hint = f"is {known[near]!r} meant? " if near else ""
    return (
        f"{path} has no column for the text; it has: {', '.join(map(repr, names))}; "
        f"{hint}Name the column text (or {', '.join(FIELDS['text'][1:])})"
    )


def _conversations(path: Path, rows: Sequence[_Row]) -> list[Conversation]:
    gathered: dict[str | None, list[Utterance]] = {}
    nameless: str | None = None
    for row in rows:
        name, utterance = _checked(path, row)
        if name is None:
            nameless = nameless or row.where
        gathered.setdefault(name, []).append(utterance)
    if nameless and len(gathered) > 1:
        raise ConversationError(f"{path}: {nameless}: no dialogue_id, but other utterances have one")
    return [Conversation(tuple(found), id=name or path.stem) for name, found in gathered.items()]


def _checked(path: Path, row: _Row) -> tuple[str | None, Utterance]:
    """Return the name of the conversation, None without one, and the utterance."""
    try:
        fields = _Fields.model_validate(row.fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        unit = " (in seconds)" if where in ("start", "end") else ""
        raise ConversationError(
            f"{path}: {row.where}: {where}{unit}: {first['msg']}, not {_short(first['input'])}"
        ) from None
    utterance = fields.utterance()
    if fields.text is None and not utterance.features:
        raise ConversationError(f"{path}: {row.where}: an utterance needs a text or features")
    start, end = utterance.start_ms, utterance.end_ms
    if start is not None and end is not None and end < start:
        raise ConversationError(f"{path}: {row.where}: it ends at {end} ms, before it starts at {start} ms")
    return row.dialogue or fields.dialogue_id or None, utterance


def _milliseconds(milliseconds: float | None, seconds: float | None) -> int | None:
    if milliseconds is not None:
        return round(milliseconds)
    return None if seconds is None else round(1000 * seconds)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
