"""Files of records, CSV or JSON lines, read strictly: what cannot be right is refused with its line."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from mmerc.errors import CorpusError

T = TypeVar("T")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")


def read_records(path: Path) -> pd.DataFrame:
    """Read a file of records; its suffix tells the format (.csv, .tsv, .jsonl, .ndjson).

    The result holds the values as the file has them and is indexed by the line on which a record
    starts, so that later complaints can name it.

    Raises:
        CorpusError: an unknown suffix, or a file that is missing, not UTF-8, malformed or empty.
    """
    suffix = path.suffix.lower()
    if suffix not in DELIMITERS and suffix not in JSON_LINES:
        known = ", ".join([*DELIMITERS, *JSON_LINES])
        raise CorpusError(f"{path}: unknown kind of file {suffix!r}; utterances are read from {known}")
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8: "
            f"is it a text file? If so, save it as UTF-8"
        ) from None
    return parse_json_lines(text, path) if suffix in JSON_LINES else parse_csv(text, path, DELIMITERS[suffix])


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        CorpusError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist") from None
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_csv(text: str, path: Path, delimiter: str = ",") -> pd.DataFrame:
    """Read CSV with a header line; `path` is for the messages.

    Raises:
        CorpusError: a record with too few or too many fields, an open quote, a repeated column, no records.
    """
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CorpusError(f"{path}, line {line}: holds a NUL character: this is not a text file")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    lines, rows = [], []
    line = 1
    try:
        for row in reader:
            start, line = line, reader.line_num + 1
            if not row:
                continue
            if not header:
                header = _checked_header([name.strip() for name in row], path)
            elif len(row) != len(header):
                raise CorpusError(
                    f"{path}, line {start}: {len(row)} fields, but the header has {len(header)}: "
                    "is a quote or a delimiter missing?"
                )
            else:
                lines.append(start)
                rows.append(row)
    except csv.Error as error:
        raise CorpusError(
            f"{path}: broken CSV in the record that begins in line {line} ({error}): "
            "is a quote not closed, or not doubled?"
        ) from None
    return _frame(rows, lines, path, header)


def parse_json_lines(text: str, path: Path) -> pd.DataFrame:
    """Read one JSON object per line; `path` is for the messages.

    Raises:
        CorpusError: a line that is not a JSON object, text that is not valid Unicode, no records.
    """
    lines, rows = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()  # refuses half a surrogate pair
        except UnicodeEncodeError:
            raise CorpusError(f"{path}, line {number}: an escape is half of a surrogate pair") from None
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise CorpusError(f"{path}, line {number}: expected an object, found {type(record).__name__}")
        lines.append(number)
        rows.append(record)
    return _frame(rows, lines, path)


def column(frame: pd.DataFrame, name: str, path: Path, hint: str = "") -> "pd.Series[Any]":
    """Return a column of the file.

    Raises:
        CorpusError: there is no such column; the message names the nearest one and lists all.
    """
    if name in frame.columns:
        return frame[name]
    have = [str(c) for c in frame.columns]
    raise CorpusError(f"{path} has no column {name!r}{nearest(name, have)}; it has: {', '.join(have)}{hint}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean …?)` with the nearest known name, or nothing when none is near."""
    by_case = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), list(by_case), n=1)
    return f" (did you mean {by_case[close[0]]!r}?)" if close else ""


def first_few(names: Sequence[str], shown: int = 5) -> str:
    """Return `a, b, c … (12)`: the first names, and how many there are when that is not all."""
    return ", ".join(names[:shown]) + (f" … ({len(names)})" if len(names) > shown else "")


def strings(values: "pd.Series[Any]", path: Path) -> list[str | None]:
    """Return a column as stripped text, None where it is empty.

    Raises:
        CorpusError: a JSON value that is a list or an object.
    """
    return _convert(values, path, _string)


def integers(values: "pd.Series[Any]", path: Path) -> list[int | None]:
    """Return a column as whole numbers, None where it is empty; `12.0` is one.

    Raises:
        CorpusError: a value that is no whole number (also NaN and infinity).
    """
    return _convert(values, path, _integer)


def required(values: Sequence[T | None], frame: pd.DataFrame, name: str, path: Path) -> list[T]:
    """Return `values`, which are in the order of `frame`, when none of them is None.

    Raises:
        CorpusError: a value is missing, with its line.
    """
    for line, value in zip(frame.index, values, strict=True):
        if value is None:
            raise CorpusError(f"{path}, line {line}: {name!r} is empty")
    return [value for value in values if value is not None]


def _checked_header(header: list[str], path: Path) -> list[str]:
    twice = {name for name in header if header.count(name) > 1}
    if twice:
        raise CorpusError(f"{path}, line 1: column {min(twice)!r} occurs more than once")
    return header


def _frame(rows: list[Any], lines: list[int], path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    if not rows:
        raise CorpusError(f"{path} holds no utterances")
    return pd.DataFrame(rows, columns=columns, index=pd.Index(lines, name="line"), dtype=object)


def _convert(values: "pd.Series[Any]", path: Path, convert: Callable[[Any], T]) -> list[T]:
    converted = []
    for line, value in values.items():
        try:
            converted.append(convert(value))
        except (ValueError, TypeError, OverflowError):
            kind = "a whole number" if convert is _integer else "text"
            shown = repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "…"
            raise CorpusError(f"{path}, line {line}: {values.name!r} is {shown}, expected {kind}") from None
    return converted


def _string(value: Any) -> str | None:
    if isinstance(value, list | dict):
        raise TypeError
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).strip() or None


def _integer(value: Any) -> int | None:
    # A missing key of a JSON line arrives as NaN, like a JSON NaN; the text "nan" in a CSV is refused below.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str) and not value.strip():
        return None
    number = float(value)
    if not number.is_integer() or abs(number) >= 2**53:
        raise ValueError
    return int(number)
