"""Which form a text has that comes without a name, such as one that is pasted into a terminal."""

import csv
import re
from typing import Final

from mmerc.transcripts.rows import FIELDS, plain_name

_BEGINNINGS: Final = {
    r"WEBVTT\b": ".vtt",
    r"\[Script Info\]": ".ass",
    r'File type = "ooTextFile"': ".textgrid",
    r"<\?xml|<ANNOTATION_DOCUMENT": ".eaf",
    r"(\d+\s*\n)?\s*\d+:\d\d:\d\d[,.]\d+\s+-->": ".srt",
    r"\{[^\n]*\}\s*\n\s*\{": ".jsonl",
    r"\{|\[\s*\{": ".json",
}


def guess_suffix(text: str) -> str:
    """Return the suffix that a file of this content would have; `.txt` if it looks like none of the others.

    A table is known by its header, whose columns are called as `FIELDS` says.
    """
    start = text.lstrip("\ufeff").lstrip()
    for beginning, suffix in _BEGINNINGS.items():
        if re.match(beginning, start):
            return suffix
    header = start.partition("\n")[0]
    for delimiter, suffix in ((",", ".csv"), (";", ".csv"), ("\t", ".tsv")):
        names = {plain_name(name) for name in next(csv.reader([header], delimiter=delimiter), [])}
        known = [field for field, aliases in FIELDS.items() if names & set(aliases)]
        if "text" in known and len(known) > 1:
            return suffix
    return ".txt"
