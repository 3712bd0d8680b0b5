"""Transcripts that people have, read into conversations; docs/transcripts.md is the page on them.

The form follows the file's suffix, in capitals or not:

* `.csv`, `.tsv`: a table with a header
* `.json`: one document, also of Whisper and WhisperX; `.jsonl`, `.ndjson`: one object per line
* `.srt`, `.vtt`, `.ass`, `.ssa`: subtitles
* `.eaf`: ELAN; `.textgrid`: Praat
* anything else: plain `Speaker: text` lines

`FIELDS` lists the columns and keys that are read: case does not matter, and where a file has several
names of one field, the first in the list is taken. Utterances that name a `dialogue_id` are gathered into
conversations in order of first appearance; without it, a file is one conversation named after the file.
Utterances of subtitles, Whisper, ELAN and Praat are in order of their start; they may overlap.
"""

import codecs
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmerc.conversation import Conversation, Utterance
from mmerc.errors import ConversationError
from mmerc.transcripts.documents import json_document_rows, json_lines_rows
from mmerc.transcripts.elan import elan_rows
from mmerc.transcripts.plain import read_lines
from mmerc.transcripts.rows import FIELDS, Row, checked
from mmerc.transcripts.sniffing import guess_suffix
from mmerc.transcripts.substation import substation_rows
from mmerc.transcripts.subtitles import srt_rows, vtt_rows
from mmerc.transcripts.tables import table_rows
from mmerc.transcripts.textgrid import textgrid_rows

__all__ = ["FIELDS", "parse_transcript", "read_transcript"]

_log = logging.getLogger(__name__)
_BOMS = {  # the UTF-32 mark begins with the UTF-16 one, so it comes first
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_transcript(path: str | Path) -> list[Conversation]:
    """Read the conversations of a transcript file, see the module's docstring for the forms.

    Text is UTF-8, or UTF-16/32 with a byte order mark. An utterance with empty text is kept in tables and
    JSON, and left out of subtitles, Whisper's segments, ELAN and Praat, where it is silence.

    Raises:
        ConversationError: the file is missing, empty, not text, or has a broken row; says which.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConversationError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ConversationError(f"{path} is a folder: name the transcript files in it one by one") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConversationError(f"{path} cannot be read: {error}") from None
    return parse_transcript(raw, path)


def parse_transcript(raw: bytes, path: Path, *, by_content: bool = False) -> list[Conversation]:
    """Read the conversations of a transcript that is not on disk.

    Args:
        raw: content of the file
        path: what it is called: the form follows its suffix, messages and conversations are named after it
        by_content: tell the form by the content instead, see `guess_suffix`

    Raises:
        ConversationError: as `read_transcript`.
    """
    text = _decoded(raw, path)
    suffix = guess_suffix(text) if by_content else path.suffix.lower()
    rows = list(_READERS.get(suffix, plain_rows)(path, text))
    if not rows:
        raise ConversationError(f"{path} holds no utterances")
    found = gathered(path, rows)
    form = suffix.removeprefix(".") if suffix in _READERS else "plain text"
    _log.debug("%s read as %s: %d utterances in %d conversations", path, form, len(rows), len(found))
    return found


def _decoded(raw: bytes, path: Path) -> str:
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


def plain_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of a plain text."""
    for speech in read_lines(text, str(path)):
        yield Row(f"line {speech.line}", {"speaker": speech.speaker, "text": speech.text})


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".csv": table_rows,
    ".tsv": table_rows,
    ".json": json_document_rows,
    ".jsonl": json_lines_rows,
    ".ndjson": json_lines_rows,
    ".srt": srt_rows,
    ".vtt": vtt_rows,
    ".ass": substation_rows,
    ".ssa": substation_rows,
    ".eaf": elan_rows,
    ".textgrid": textgrid_rows,
}
SUFFIXES = frozenset((*_READERS, ".txt"))  # that transcripts are known by, in a folder with other files


def gathered(path: Path, rows: Sequence[Row]) -> list[Conversation]:
    """Gather checked utterances into conversations, in order of first appearance.

    Args:
        path: messages and a conversation without a name of its own are named after it
        rows: at least one

    Raises:
        ConversationError: an utterance cannot be; says which.
    """
    found: dict[str | None, list[Utterance]] = {}
    nameless: str | None = None
    untimed: set[str | None] = set()  # conversations that stay in the order of the file
    for row in rows:
        name, utterance = checked(path, row)
        if name is None:
            nameless = nameless or row.where
        if not row.timed or utterance.start_ms is None:
            untimed.add(name)
        found.setdefault(name, []).append(utterance)
    if nameless and len(found) > 1:
        raise ConversationError(f"{path}: {nameless}: no dialogue_id, but other utterances have one")
    for name in found.keys() - untimed:
        found[name].sort(key=_start)
    return [Conversation(tuple(spoken), id=name or path.stem) for name, spoken in found.items()]


def _start(utterance: Utterance) -> int:
    return utterance.start_ms or 0
