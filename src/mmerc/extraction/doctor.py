"""The data doctor: what is wrong with the media of a corpus, before anybody trains on them.

It measures with the workers and the cache of an extraction, and changes nothing: it says which rows and which
file a finding is about and what can be done; what becomes of them is for people to decide.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from mmerc.corpora.checking import NO_GROUP, Problem, groups, ranges
from mmerc.corpora.meld_raw import KNOWN_BROKEN, SECOND
from mmerc.corpus import Corpus
from mmerc.errors import MediaError
from mmerc.extraction.measuring import Meter
from mmerc.extraction.symptoms import Case, Note, Part, notes
from mmerc.features.decoding import MediaInfo, probe
from mmerc.features.diagnosis import FaceCount, Health, Heard, Seen
from mmerc.features.extractors import Chosen
from mmerc.media import read_sources

KINDS: Final = (
    "missing", "corrupt", "incomplete", "no sound", "no pictures", "lengths differ", "times", "over-long",
    "cut short", "silent", "clipped", "text mismatch", "known broken", "no face",
)  # fmt: skip
ERRORS: Final = ("missing", "corrupt")
Severity = Literal["error", "warning"]
THREADS: Final = 4  # that read headers: they wait for the disk, mostly


@dataclass(frozen=True, slots=True)
class Finding(Problem):
    """What is wrong with media: a problem with its kind, one of `KINDS`, its file and all its rows."""

    kind: str
    file: str | None  # relative to the media root; None: not of one file
    rows: tuple[int, ...]


class Examination(NamedTuple):
    """What was measured, one row per utterance, and what is wrong."""

    table: pd.DataFrame
    problems: list[Finding]  # errors first


def examine(corpus: Corpus, meter: Meter, root: Path | None = None) -> Examination:
    """Look at all media of a corpus.

    Args:
        corpus: a corpus with a `media.parquet`; neither it nor the media are changed
        meter: who measures
        root: where the media files are, if not where they were

    Raises:
        CorpusError: the corpus does not say where its media are, or the folder is missing.
        FeatureError: the cache is broken, or OpenCV is not installed.
    """
    folder = root or Path(str(corpus.manifest.provenance.get("media_root", "")))
    cases = _cases(corpus, meter, root)
    found = _findings([*notes(cases, folder), *_known_broken(corpus, cases)], corpus, folder)
    return Examination(_table(corpus, cases, found, folder), found)


def _cases(corpus: Corpus, meter: Meter, root: Path | None) -> list[Case]:
    sounds, pictures = read_sources(corpus, "audio", root), read_sources(corpus, "visual", root)
    infos = _headers({source.file for source in (*sounds, *pictures) if source is not None})
    heard = meter.sound(sounds, Chosen("audio", Health()))
    seen = meter.pictures(pictures, [None] * len(corpus), Chosen("visual", FaceCount()))
    table = corpus.utterances
    lengths = (table["end_ms"] - table["start_ms"]) / 1000
    return [
        Case(
            row,
            text,
            media,
            None if pd.isna(length) else float(length),
            None if sound is None else Part("sound", sound, infos[sound.file], heard[row]),
            None if picture is None else Part("pictures", picture, infos[picture.file], seen[row]),
        )
        for row, (text, media, length, sound, picture) in enumerate(
            zip(table["text"].fillna(""), table["media"].fillna(""), lengths, sounds, pictures, strict=True)
        )
    ]


def _headers(files: Iterable[Path]) -> dict[Path, MediaInfo | MediaError]:
    def read(file: Path) -> MediaInfo | MediaError:
        try:
            return probe(file)
        except MediaError as error:
            return error

    ordered = sorted(files)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(ordered, pool.map(read, ordered), strict=True))


def _known_broken(corpus: Corpus, cases: Sequence[Case]) -> Iterator[Note]:
    """Yield the clips of MELD of which others have found out that they are broken, however they look."""
    if not str(corpus.manifest.provenance.get("source", "")).startswith("MELD"):
        return
    for case, dialogue in zip(cases, corpus.utterances["dialogue_id"], strict=True):
        # The published split is part of a dialogue's name; that in the table may be another one by now.
        reason = KNOWN_BROKEN.get((str(dialogue).split("_")[0], Path(case.media).stem))
        file = case.parts[0].source.file if case.parts else None
        if reason is not None and (file is None or SECOND not in file.name):
            message = f"{case.media} is known to be broken, {reason}: consider to leave its media out"
            yield Note(case.row, "known broken", "media", file, message)


def _findings(noted: Iterable[Note], corpus: Corpus, root: Path) -> list[Finding]:
    """Put notes that say the same of one file, or of no certain one, into one finding."""
    rows: dict[tuple[str, str, Path | None, str], set[int]] = defaultdict(set)
    for note in noted:
        rows[note.kind, note.field, note.file, note.message].add(note.row)
    found = []
    for (kind, field, file, message), several in rows.items():
        numbers, name = tuple(sorted(several)), _name(file, root)
        if name is not None and name not in message:
            message = f"{name}: {message}"
        if len(numbers) > 1:
            message = f"{message}: {_listed(numbers, corpus)}"
        row = numbers[0] if len(numbers) == 1 else None
        severity: Severity = "error" if kind in ERRORS else "warning"
        found.append(Finding(severity, row, field, message, kind, name, numbers))
    return sorted(found, key=lambda f: (f.severity, KINDS.index(f.kind), f.rows))


def _listed(rows: Sequence[int], corpus: Corpus) -> str:
    """Return `3 of 40 utterances, rows 3-4 (dialogue a), 9 (dialogue b)`."""
    dialogue = corpus.utterances["dialogue_id"].iloc[list(rows)]
    parts = [
        f"{ranges(np.array(part.index))} ({name})" for name, part in dialogue.groupby(dialogue, sort=False)
    ]
    return f"{len(rows)} of {len(corpus)} utterances, rows {', '.join(parts)}"


def _table(corpus: Corpus, cases: Sequence[Case], found: Sequence[Finding], root: Path) -> pd.DataFrame:
    kinds: dict[int, list[str]] = defaultdict(list)
    for finding in found:
        for row in finding.rows:
            kinds[row].append(finding.kind)
    table = corpus.utterances[["dialogue_id", "utterance_index"]].copy()
    table["group"] = groups(corpus).fillna(NO_GROUP)
    for medium, parts in (("audio", [c.sound for c in cases]), ("visual", [c.pictures for c in cases])):
        table[f"{medium}_file"] = [None if p is None else _name(p.source.file, root) for p in parts]
        table[f"{medium}_length_s"] = _numbers([None if p is None else p.span_s for p in parts])
        table[f"{medium}_not_measured"] = ["" if p is None else p.measured.reason for p in parts]
    for name in Heard._fields:
        table[name] = _numbers([getattr(case.heard, name, None) for case in cases])
    for name in Seen._fields:
        table[name] = _numbers([getattr(case.seen, name, None) for case in cases])
    table["findings"] = [list(dict.fromkeys(kinds[case.row])) for case in cases]
    return table


def _numbers(values: Sequence[float | None]) -> Any:
    return pd.array([None if value is None else round(value, 4) for value in values], dtype="Float64")


def _name(file: Path | None, root: Path) -> str | None:
    if file is None:
        return None
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
