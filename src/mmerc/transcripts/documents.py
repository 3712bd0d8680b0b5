"""JSON and JSON Lines: objects that are utterances, or conversations of them, also those of Whisper."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from mmerc.errors import ConversationError
from mmerc.transcripts.rows import FIELDS, Row, known_fields
from mmerc.transcripts.whisper import SEGMENTS, turns

_LISTS = ("utterances", *SEGMENTS)  # where an object keeps its utterances


def json_lines_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of a file with one object per line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"line {number}"
            hint = "a .jsonl file has one object per line; name one long document .json"
            yield from _rows(path, _parsed(line, f"{path}: {where}", hint), where, f"-{number}")


def json_document_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of a file that is one object, or one list of them."""
    if not text.strip():
        return
    value = _parsed(
        text, str(path), "a .json file is one document; name a file of one object per line .jsonl"
    )
    if not isinstance(value, list):
        yield from _rows(path, value, "the document", "")
        return
    for number, item in enumerate(value, start=1):
        yield from _rows(path, item, f"item {number}", f"-{number}")


def _parsed(text: str, where: str, hint: str) -> Any:
    try:
        return from_json(text)
    except ValueError as error:
        raise ConversationError(f"{where}: not JSON: {error} ({hint})") from None


def _rows(path: Path, item: Any, where: str, suffix: str) -> Iterator[Row]:
    """Yield the utterance that `item` is, or the utterances of the conversation that it is."""
    if not isinstance(item, dict):
        raise ConversationError(f"{path}: {where}: expected an object with a text, not {_kind(item)}")
    key = next((key for key in _LISTS if key in item), None)
    if key is None:
        yield Row(where, known_fields(item.items(), f"{path}: {where}"))
        return
    utterances = item[key]
    if not isinstance(utterances, list) or not utterances:
        raise ConversationError(f"{path}: {where}: {key!r} must be a list with at least one utterance")
    names = (item.get(name) for name in ("id", *FIELDS["dialogue_id"]))
    name = next(
        (str(name) for name in names if isinstance(name, str | int) and name != ""), path.stem + suffix
    )
    for number, utterance in enumerate(utterances, start=1):
        place = f"{where}, {'segment' if key in SEGMENTS else 'utterance'} {number}"
        if not isinstance(utterance, dict):
            raise ConversationError(f"{path}: {place}: expected an object, not {_kind(utterance)}")
        yield from _spoken(path, utterance, place, name, key in SEGMENTS)


def _spoken(path: Path, item: Mapping[str, Any], place: str, name: str, segment: bool) -> Iterator[Row]:
    fields = known_fields(item.items(), f"{path}: {place}")
    if not segment:
        yield Row(place, fields, name)
        return
    for turn in turns(item, fields, f"{path}: {place}"):
        yield Row(place, turn, name, timed=True)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
