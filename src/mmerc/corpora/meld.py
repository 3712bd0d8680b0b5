"""MELD: the transcripts `train|dev|test_sent_emo.csv` of declare-lab/MELD (Poria et al., ACL 2019).

What the files need: Windows-1252 leftovers in the text are undone; dialogue ids start again in every
split, so a dialogue is called `train_0`; utterance ids have gaps and are kept, since they name the clips.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mmerc.corpora import records
from mmerc.corpora.label_maps import LabelMap, apply_label_map, map_note
from mmerc.corpus import Corpus, write_corpus
from mmerc.errors import CorpusError

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SENTIMENT_MAP = "meld-3"
FILES = {"train": "train_sent_emo.csv", "validation": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}

_NAMES = {"Emotion": LABELS, "Sentiment": ("neutral", "positive", "negative")}
_TIME = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})[,.](\d{1,3})")


def _windows_1252() -> dict[int, str]:
    # A byte of 0x80-0xff that is not UTF-8 arrives as a surrogate escape (U+DC80 …); one that somebody
    # read as Latin-1 and wrote as UTF-8 arrives as a C1 control character (U+0080 …).
    bytes_ = {b: bytes([b]).decode("cp1252", errors="ignore") for b in range(0x80, 0x100)}
    escaped = {0xDC00 + byte: text for byte, text in bytes_.items()}
    return escaped | {byte: text for byte, text in bytes_.items() if byte < 0xA0}


_LEFTOVERS = _windows_1252()


class Transcripts(NamedTuple):
    """The transcripts of some splits, read."""

    utterances: pd.DataFrame
    labels: tuple[str, ...]
    provenance: dict[str, Any]


def import_meld(source: Path, out: Path, label_map: LabelMap | None = None) -> Corpus:
    """Import the transcripts in the folder `source` into the corpus folder `out`.

    The dialogues of a split are sorted by their number and called `train_0`, `validation_3`, `test_12`;
    `media` holds the name of the clip, `dia0_uttY.mp4`. Times without duration (start not before end)
    or of another form are left out; the provenance counts them and the characters that were repaired.
    For `label_map` see `read_transcripts`.

    Raises:
        CorpusError: none of the three files is there, or one is broken (with its line).
    """
    paths = {split: source / file for split, file in FILES.items() if (source / file).exists()}
    if not paths:
        raise CorpusError(f"{source} holds none of {', '.join(FILES.values())}")
    read = read_transcripts(paths, label_map)
    return write_corpus(
        out,
        name="meld",
        labels=read.labels,
        utterances=read.utterances,
        features={},
        provenance=read.provenance,
    )


def read_transcripts(paths: Mapping[str, Path], label_map: LabelMap | None = None) -> Transcripts:
    """Read the transcript of each split, in the order given.

    Args:
        paths: split → its file.
        label_map: by default the seven emotions. The map `meld-3` stands for the sentiments as the
            annotators gave them (the column Sentiment): surprise is negative or positive by utterance.

    Raises:
        CorpusError: a broken file, with its line, or an emotion that the map does not name.
    """
    sentiment = label_map is not None and label_map.name == SENTIMENT_MAP
    frames, files, repaired, untimed = [], {}, 0, 0
    for split, path in paths.items():
        frame, leftovers, unusable = _read_split(path, split, "Sentiment" if sentiment else "Emotion")
        frames.append(frame)
        files[split] = {"file": path.name, "sha256": records.sha256(path)}
        repaired, untimed = repaired + leftovers, untimed + unusable
    utterances = pd.concat(frames, ignore_index=True)
    notes = [
        f"read {', '.join(file['file'] for file in files.values())}",
        f"{repaired} Windows-1252 leftovers repaired, {untimed} utterances without usable times",
    ]
    if sentiment:
        notes.append(f"label map {SENTIMENT_MAP}: the sentiments that the annotators gave")
    elif label_map is not None:
        given = utterances["label"]
        utterances["label"] = apply_label_map(given, label_map, "MELD")
        notes.append(map_note(given, label_map))
    provenance = {
        "source": "MELD transcripts (Poria et al., ACL 2019)",
        "files": files,
        "repaired_characters": repaired,
        "unusable_times": untimed,
        "notes": notes,
    }
    return Transcripts(utterances, LABELS if label_map is None else label_map.labels, provenance)


def _read_split(path: Path, split: str, labelled_by: str) -> tuple[pd.DataFrame, int, int]:
    """Return the utterances, and how many characters were repaired and times left out."""
    raw = records.read_bytes(path).decode("utf-8-sig", errors="surrogateescape")
    rows = records.parse_csv(raw.translate(_LEFTOVERS), path)
    numbers = {
        name: records.required(records.integers(records.column(rows, name, path), path), rows, name, path)
        for name in ("Dialogue_ID", "Utterance_ID")
    }
    start, end = (_milliseconds(records.column(rows, name, path)) for name in ("StartTime", "EndTime"))
    unusable = ~(start < end).fillna(False).to_numpy(dtype=bool)
    frame = pd.DataFrame(
        {
            "dialogue": numbers["Dialogue_ID"],
            "utterance_index": numbers["Utterance_ID"],
            "speaker": records.strings(records.column(rows, "Speaker", path), path),
            "text": [t or "" for t in records.strings(records.column(rows, "Utterance", path), path)],
            "start_ms": start.mask(unusable).array,
            "end_ms": end.mask(unusable).array,
            "label": _labels(rows, path, labelled_by),
            "split": split,
        }
    )
    twice = frame.duplicated(["dialogue", "utterance_index"]).to_numpy()
    if twice.any():
        line = rows.index[twice][0]
        raise CorpusError(f"{path}, line {line}: this dialogue and utterance were there before")
    frame = frame.sort_values(["dialogue", "utterance_index"])
    dialogue, utterance = frame["dialogue"].astype(str), frame["utterance_index"].astype(str)
    frame["dialogue_id"] = f"{split}_" + dialogue
    frame["media"] = "dia" + dialogue + "_utt" + utterance + ".mp4"
    repaired = sum(ord(c) in _LEFTOVERS for c in raw)
    return frame, repaired, int(unusable.sum())


def _labels(rows: pd.DataFrame, path: Path, name: str) -> list[str | None]:
    column = records.column(rows, name, path)
    known = _NAMES[name]
    labels = [None if label is None else label.lower() for label in records.strings(column, path)]
    for line, label in zip(rows.index, labels, strict=True):
        if label is not None and label not in known:
            raise CorpusError(
                f"{path}, line {line}: unknown {name.lower()} {label!r}; MELD has {', '.join(known)}"
            )
    return labels


def _milliseconds(times: "pd.Series[str]") -> "pd.Series[int]":
    # Three rows have two digits after the comma ("00:05:11,82"). The next utterance starts 0.2 s after .820,
    # as elsewhere in the file, and 0.94 s after .082: they are decimals that lost a zero at the end.
    def convert(time: str) -> int | None:
        match = _TIME.fullmatch(time.strip())
        if match is None:
            return None
        hours, minutes, seconds, fraction = match.groups()
        return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000 + int(fraction.ljust(3, "0"))

    return pd.Series([convert(time) for time in times], dtype="Int64")
