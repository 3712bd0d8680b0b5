"""A folder of media files, with a table that says who speaks in which, or a transcript beside each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mmerc.corpora import records
from mmerc.corpora.label_maps import LabelMap
from mmerc.corpora.recording import PICTURES, SOUND, has_pictures, import_recordings
from mmerc.corpora.table import Table, read_table
from mmerc.corpus import Corpus, write_corpus
from mmerc.errors import CorpusError
from mmerc.media import media_table

# Of several transcripts of one recording (whisper writes five), the first kind in this order is read.
TRANSCRIPTS = (".eaf", ".textgrid", ".json", ".jsonl", ".ndjson", ".csv", ".vtt", ".srt", ".tsv")
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
SPAN = ("clip_start_ms", "clip_end_ms")
FORM = (
    "media,dialogue_id,speaker,text,label,split (and, as needed, utterance_index, start_ms, end_ms, fold; "
    f"{' and '.join(SPAN)} for a part of a file)"
)


def import_clips(
    source: Path,
    out: Path,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
    name: str | None = None,
    validation: int = 0,
) -> Corpus:
    """Import the media files in the folder `source` into the corpus folder `out`, without features.

    A table has one record per utterance; its column `media` names a file in the folder, of which the
    utterance is the whole, or the part from `clip_start_ms` to `clip_end_ms`. An utterance without a file,
    or whose file is missing, keeps its place, without media. Without a table, each recording needs a
    transcript of the same name beside it (`meeting.mp4`, `meeting.srt`; see `import_recordings`).

    Args:
        source: the folder.
        out: the corpus folder.
        table: .csv, .tsv, .jsonl or .ndjson; by default the one in the folder that is no transcript.
        columns: field → column of the table (see `import_table`).
        labels: label names in class order; empty: the table's labels are not read.
        label_map: what becomes of the labels.
        name: name of the corpus; by default that of its folder.
        validation: number of training dialogues to turn into the validation split.

    Raises:
        CorpusError: neither a table nor transcripts, or one that cannot be used (file, line, column).
        ConversationError: a transcript cannot be read.
    """
    if not source.is_dir():
        raise CorpusError(f"{source} is not a folder")
    found = table or _only_table(source)
    if found is None:
        return _import_pairs(source, out, columns, labels, label_map, name, validation)
    read = read_table(
        found, columns=columns or {}, labels=labels, label_map=label_map, validation=validation, further=SPAN
    )
    if "media" not in read.utterances:
        raise CorpusError(
            f"{found} has no column 'media' with the names of the files. Map it with --column media=NAME"
        )
    media, notes = _media(read, source, found)
    return write_corpus(
        out,
        name=name or out.resolve().name,
        labels=read.labels,
        utterances=read.utterances,
        features={},
        tables={"media": media},
        provenance={
            **read.provenance,
            "source": "clips",
            "media_root": str(source.resolve()),
            "notes": [*read.provenance["notes"], *notes],
        },
    )


def _media(read: Table, source: Path, table: Path) -> tuple[pd.DataFrame, list[str]]:
    files: list[str | None] = []
    missing = []
    for line, given in zip(read.lines, read.utterances["media"], strict=True):
        file = None if pd.isna(given) else str(given)
        if file is not None and Path(file).is_absolute():
            raise CorpusError(f"{table}, line {line}: {file!r}: name media files relative to {source}")
        if file is not None and not (source / file).is_file():
            missing.append(file)
            file = None
        files.append(file)
    nameless = int(read.utterances["media"].isna().sum())
    notes = [f"{nameless} utterances name no media file"] if nameless else []
    if missing:
        notes.append(f"{len(missing)} media files missing: {records.first_few(missing)}")
    if len(missing) + nameless == len(files):
        shown = f": {records.first_few(missing)}" if missing else ""
        raise CorpusError(f"{table}: none of its media files is in {source}{shown}")
    start, end = _span(read, table)
    pictures = [file if file is not None and has_pictures(file) else None for file in files]
    columns = {
        "audio_file": files, "audio_start_ms": start, "audio_end_ms": end,
        "visual_file": pictures, "visual_start_ms": start, "visual_end_ms": end,
    }  # fmt: skip
    return media_table(columns), notes


def _span(read: Table, table: Path) -> tuple["pd.Series[int]", "pd.Series[int]"]:
    nothing = pd.Series(pd.NA, index=read.utterances.index, dtype="Int64")
    start, end = (read.utterances.get(field, nothing) for field in SPAN)
    wrong = ((start < 0) | (end <= start.fillna(0))).fillna(False).to_numpy(dtype=bool)
    if wrong.any():
        row = int(wrong.argmax())
        raise CorpusError(
            f"{table}, line {read.lines[row]}: the part from {start[row]} to {end[row]} ms is no span of time"
        )
    return start, end


def _only_table(source: Path) -> Path | None:
    """Return the table in the folder; a file that is named like a recording is its transcript."""
    recordings = {file.with_suffix("") for file in _recordings(source)}
    found = [
        file
        for file in sorted(source.iterdir())
        if file.suffix.lower() in TABLES
        and not file.name.startswith(".")
        and file.with_suffix("") not in recordings
    ]
    if len(found) > 1:
        raise CorpusError(
            f"{source} holds several tables ({records.first_few([f.name for f in found])}): "
            "say which one names the media files (--transcript)"
        )
    return found[0] if found else None


def _recordings(source: Path) -> list[Path]:
    return [
        file
        for file in sorted(source.rglob("*"))
        if file.suffix.lower() in SOUND | PICTURES and not file.name.startswith(".") and file.is_file()
    ]


def _import_pairs(
    source: Path,
    out: Path,
    columns: Mapping[str, str] | None,
    labels: Sequence[str] | None,
    label_map: LabelMap | None,
    name: str | None,
    validation: int,
) -> Corpus:
    recordings = _recordings(source)
    pairs = [(file, beside[0]) for file in recordings if (beside := transcripts_beside(file))]
    if not pairs:
        raise CorpusError(
            f"{source} holds {len(recordings)} media files, but nothing says what is spoken in them: put a "
            f"CSV there with the header {FORM}, or a transcript beside each file (meeting.mp4, meeting.srt)"
        )
    if columns or validation:
        raise CorpusError(
            f"{source} holds transcripts, no table: columns and validation dialogues are for a table"
        )
    if alone := [str(file.relative_to(source)) for file in recordings if not transcripts_beside(file)]:
        raise CorpusError(
            f"{source}: {len(alone)} of {len(recordings)} media files have no transcript beside them: "
            f"{records.first_few(alone)}. Add them, or move these files away"
        )
    return import_recordings(pairs, out, labels=labels, label_map=label_map, name=name)


def transcripts_beside(recording: Path) -> list[Path]:
    """Return the transcripts beside a recording, the one to read first."""
    beside = [f for f in recording.parent.iterdir() if f.stem == recording.stem and f.is_file()]
    known = [file for file in beside if file.suffix.lower() in TRANSCRIPTS]
    return sorted(known, key=lambda file: TRANSCRIPTS.index(file.suffix.lower()))
