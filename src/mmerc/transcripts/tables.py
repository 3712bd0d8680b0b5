"""Tables of utterances: CSV and TSV with a header, one row per utterance."""

import difflib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from mmerc.errors import ConversationError
from mmerc.transcripts.rows import FIELDS, Row, known_fields, plain_name

_WHISPER_HEADER = ["start", "end", "text"]  # of the .tsv that Whisper writes: its times are milliseconds


def table_rows(path: Path, text: str) -> Iterator[Row]:
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
    if separator == "\t" and header == _WHISPER_HEADER:
        header = ["start_ms", "end_ms", "text"]
    fields = known_fields(((name, i) for i, name in enumerate(header)), f"{path}: the header")
    if "text" not in fields:
        raise ConversationError(_no_text(path, header))
    fields.pop("features", None)
    for number, row in enumerate(cells, start=1):
        found = {field: row[position] for field, position in fields.items()}
        yield Row(f"row {number}", {k: v for k, v in found.items() if v.strip() or k == "text"})


def _no_text(path: Path, names: Sequence[str]) -> str:
    known = {plain_name(name): name for name in names}
    near = next((n for alias in FIELDS["text"] for n in difflib.get_close_matches(alias, known, n=1)), None)
    hint = f"is {known[near]!r} meant? " if near else ""
    return (
        f"{path} has no column for the text; it has: {', '.join(map(repr, names))}; "
        f"{hint}Name the column text (or {', '.join(FIELDS['text'][1:])})"
    )
