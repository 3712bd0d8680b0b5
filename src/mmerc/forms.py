"""What may be handed in for a conversation, and the one place that reads it.

* a path: of a transcript, see `mmerc.transcripts`
* a text: read as a transcript of plain lines is, so that a pasted chat has its speakers
* a list: of texts, of `(speaker, text)` pairs, of dicts with the fields of a transcript, or of `Utterance`s
* a pandas DataFrame with the columns of a transcript
* a `Conversation`

A `str` may be a path or a text. It is a path if something of that name is there. If nothing is, and it looks
like one (`looks_like_a_path`), it is refused: a misspelt name must not be taken for what somebody said. The
texts of pairs, dicts and `Utterance`s are never taken for paths, whatever they are.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard, cast

from mmerc.conversation import Conversation, Utterance
from mmerc.corpora.recording import PICTURES, SOUND
from mmerc.errors import ConversationError
from mmerc.transcripts.plain import names_speakers, split_speaker
from mmerc.transcripts.reading import SUFFIXES, gathered, plain_rows, read_transcript
from mmerc.transcripts.rows import Row, known_fields, short

if TYPE_CHECKING:
    import pandas as pd

Turn: TypeAlias = (
    str | tuple[str | None, str] | Mapping[str, Any] | Utterance
)  # a list holds one kind of them
Given: TypeAlias = "Conversation | str | PathLike[str] | pd.DataFrame | Sequence[Turn]"
Several: TypeAlias = "Conversation | str | PathLike[str] | pd.DataFrame | Sequence[Given]"

FORMS: Final = (
    "expected a path, a text, a list of texts, of (speaker, text) pairs, of dicts like "
    "{'speaker': 'Ann', 'text': 'Hi!'} or of Utterances, a pandas DataFrame with such columns, or a "
    "Conversation"
)
_NAME = Path("conversation")  # of what comes from no file, in messages and as the conversation's id
# A transcript or recording, or what people keep chats in besides; mmerc does not read the latter.
FILES: Final = (
    SUFFIXES | SOUND | PICTURES | {".doc", ".docx", ".html", ".md", ".odt", ".pdf", ".rtf", ".xlsx", ".zip"}
)
_PLACE = re.compile(r"[\\/]?(?:[\w.~:-]+[\\/])+[\w.-]{2,}", re.ASCII)  # no smiley, no 24/7, no address


def conversation(given: Given) -> Conversation:
    """Read one conversation.

    Raises:
        ConversationError: it is none of the forms, holds nothing, or holds several conversations.
    """
    found = conversations(given)
    if len(found) > 1:
        what = short(str(given)) if isinstance(given, str | PathLike) else f"this {type(given).__name__}"
        raise ConversationError(
            f"{what} holds {len(found)} conversations, expected one: predict_many takes them all"
        )
    return found[0]


def conversations(given: Given) -> list[Conversation]:
    """Read all conversations of a path, a DataFrame, or any other form; there is at least one.

    Raises:
        ConversationError: it is none of the forms, or holds nothing.
    """
    if isinstance(given, Conversation):
        return [given]
    if isinstance(given, str):
        return _of_file(Path(given)) if _is_there(given) else [_of_text(given)]
    if isinstance(given, PathLike):
        return _of_file(Path(given))
    if isinstance(given, list | tuple):
        return _of_list(given)
    if _is_table(given):
        return _of_rows(_table_rows(given))
    raise ConversationError(f"{_kind(given)} is not a conversation: {FORMS}")


def several(given: Several) -> list[Conversation]:
    """Read the conversations of a list, each in any form, or all that a path or a DataFrame holds.

    Raises:
        ConversationError: as `conversation`, for an item of the list; says which.
    """
    if not isinstance(given, list | tuple):
        return conversations(cast("Given", given))
    found = []
    for number, item in enumerate(given, start=1):
        try:
            found.append(conversation(item))
        except ConversationError as error:
            raise ConversationError(f"conversation {number}: {error}") from None
    return found


def refuse_recording(path: Path) -> None:
    """Refuse a recording where a transcript is expected.

    Raises:
        ConversationError: the name is that of an audio or video file.
    """
    if path.suffix.lower() in SOUND | PICTURES:
        raise ConversationError(
            f"{path} is a recording: hand in its transcript, too (--transcript FILE, or `transcript=`), such "
            "as SRT, WebVTT or WhisperX JSON, which says who says what when"
        )


def looks_like_a_path(text: str) -> bool:
    """Return whether one line is more likely a path than something said.

    It ends like a file that conversations are kept in (`WhatsApp Chat with Ann.txt`), or consists of two or
    more plain names with slashes between, the last of two letters or more (`runs/talk`, `C:\\talk`).
    """
    line = text.strip()
    if len(line.splitlines()) != 1:
        return False
    return Path(line).suffix.lower() in FILES or _PLACE.fullmatch(line) is not None


def _is_table(value: object) -> "TypeGuard[pd.DataFrame]":
    pandas = sys.modules.get("pandas")  # who has a table has imported it; nobody else waits for it
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _is_there(text: str) -> bool:
    with suppress(OSError, ValueError):  # too long for a name, or with a NUL in it
        return text != "" and Path(text).exists()
    return False


def _of_file(path: Path) -> list[Conversation]:
    refuse_recording(path)
    return read_transcript(path)


def _of_text(text: str) -> Conversation:
    if looks_like_a_path(text):
        raise ConversationError(
            f"{text.strip()} does not exist. If it is no path but what somebody said, hand in a pair: "
            f"[('', {short(text)})]"
        )
    if not text.strip():
        raise ConversationError("an empty text: there is nothing to predict")
    return _of_rows(list(plain_rows(_NAME, text)))[0]


def _of_list(items: Sequence[Any]) -> list[Conversation]:
    if not items:
        raise ConversationError("an empty list: there is nothing to predict")
    kinds = [_kind_of_item(number, item) for number, item in enumerate(items, start=1)]
    if odd := next((i for i, kind in enumerate(kinds) if kind is not kinds[0]), None):
        raise ConversationError(
            f"item {odd + 1} is {_kind(items[odd])}, item 1 is {_kind(items[0])}: a list holds one form"
        )
    if kinds[0] is Utterance:
        return [Conversation(tuple(items))]
    if kinds[0] is str:
        return [_of_texts(items)]
    rows = []
    for number, item in enumerate(items, start=1):
        where = f"item {number}"
        fields = (
            known_fields(item.items(), f"{_NAME}: {where}")
            if kinds[0] is Mapping
            else {"speaker": item[0], "text": item[1]}
        )
        rows.append(Row(where, fields))
    return _of_rows(rows)


def _of_texts(texts: Sequence[str]) -> Conversation:
    """Make an utterance of every text; what looks like a speaker in front of it is one, as in a chat."""
    if isinstance(texts, tuple) and len(texts) == 2:
        raise ConversationError(f"a pair alone may be a speaker and a text, or two texts: {FORMS}")
    if all(_is_there(text) or looks_like_a_path(text) for text in texts):
        raise ConversationError(
            f"a list of names, such as {short(texts[0])}, where a list of texts was expected: predict_many "
            "takes several paths; what somebody said may also stand in pairs, [('', text), …]"
        )
    parts = [split_speaker(text) for text in texts]
    if not names_speakers([speaker for speaker, _ in parts]):
        parts = [("", text) for text in texts]
    return Conversation(tuple(Utterance(text, speaker) for speaker, text in parts))


def _kind_of_item(number: int, item: Any) -> type:
    """Return what an item of a list is: a text, a pair, a dict or an `Utterance`."""
    for kind in (str, Utterance):
        if isinstance(item, kind):
            return kind
    if isinstance(item, Mapping):
        if odd := next((key for key in item if not isinstance(key, str)), None):
            raise ConversationError(f"item {number}: the key {odd!r} is not a text")
        return Mapping
    if isinstance(item, list | tuple):
        if len(item) == 2 and isinstance(item[0], str | None) and isinstance(item[1], str):
            return tuple
        raise ConversationError(f"item {number}: {short(item)} is not a pair of a speaker and a text")
    if isinstance(item, Conversation | PathLike) or _is_table(item):
        raise ConversationError(
            f"item {number} is {_kind(item)}: predict_many takes a list of conversations, predict takes one"
        )
    raise ConversationError(f"item {number} is {_kind(item)}: {FORMS}")


def _table_rows(table: "pd.DataFrame") -> list[Row]:
    from pandas import isna
    from pandas.api.types import is_scalar

    names = [(name, position) for position, name in enumerate(table.columns) if isinstance(name, str)]
    fields = known_fields(names, "the header")
    if not {"text", "features"} & fields.keys():
        raise ConversationError(
            f"the DataFrame has no column 'text'; it has: {', '.join(map(repr, table.columns))}"
        )
    columns = [table.iloc[:, position].tolist() for position in fields.values()]
    rows = []
    for number, cells in enumerate(zip(*columns, strict=True), start=1):
        found = dict(zip(fields, cells, strict=True))
        there = {k: v for k, v in found.items() if not (is_scalar(v) and isna(v))}
        rows.append(Row(f"row {number}", {"text": ""} | there if "text" in fields else there))
    return rows


def _of_rows(rows: Sequence[Row]) -> list[Conversation]:
    if not rows:
        raise ConversationError("no utterances: there is nothing to predict")
    return gathered(_NAME, rows)


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
