"""`predicted.jsonl`: which results a folder holds, and what each was made of.

A result is named there before it is written, and once more, with hashes, when it is whole. What stands in the
folder and not in the index is somebody else's.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from mmerc.storage import write_text

INDEX: Final = "predicted.jsonl"  # neither .json nor .csv: no glob takes it for a result


class Entry(BaseModel):
    """A line of the index; of several on one result, the last counts."""

    model_config = ConfigDict(frozen=True)
    result: str  # its name in the folder
    given: list[str]  # the files that it was made from
    made_of: str = ""  # hash of their content, and of the checkpoint; empty: the result was only begun
    sha256: str = ""  # of the result


def read_index(folder: Path) -> dict[str, Entry]:
    """Return what the index of a folder says, by result; a line that was cut off by a crash says nothing."""
    try:
        lines = (folder / INDEX).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    entries = []
    for line in lines:
        with suppress(ValidationError):
            entries.append(Entry.model_validate_json(line))
    return {entry.result: entry for entry in entries}


def write_index(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Write the index of a folder anew."""
    write_text(folder / INDEX, "".join(map(_line, entries.values())))


def add_to_index(folder: Path, entries: Iterable[Entry]) -> None:
    """Add lines to the index of a folder."""
    with (folder / INDEX).open("a", encoding="utf-8", newline="\n") as index:
        index.writelines(map(_line, entries))


def _line(entry: Entry) -> str:
    return json.dumps(entry.model_dump()) + "\n"  # in ASCII: the name of a file may be no UTF-8
