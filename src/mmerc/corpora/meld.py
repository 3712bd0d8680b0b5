"""MELD: the transcripts `train|dev|test_sent_emo.csv` of declare-lab/MELD (Poria et al., ACL 2019).

What the files need: Windows-1252 leftovers in the text are undone; dialogue ids start again in every
split, so a dialogue is called `train_0`; utterance ids have gaps and are kept, since they name the clips.
"""

import re
from pathlib import Path

import pandas as pd

from mmerc.corpora import records
from mmerc.corpus import Corpus, write_corpus
from mmerc.errors import CorpusError

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
FILES = {"train": "train_sent_emo.csv", "validation": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}

_TIME = re.compile(r"(\d{1,2}):(\d{2}):(\d{2})[,.](\d{1,3})")


def _windows_1252() -> dict[int, str]:
    # A byte of 0x80-0xff that is not UTF-8 arrives as a surrogate escape (U+DC80 …); one that somebody
    # read as Latin-1 and wrote as UTF-8 arrives as a C1 control character (U+0080 …).
    bytes_ = {b: bytes([b]).decode("cp1252", errors="ignore") for b in range(0x80, 0x100)}
    escaped = {0xDC00 + byte: text for byte, text in bytes_.items()}
    return escaped | {byte: text for byte, text in bytes_.items() if byte < 0xA0}


_LEFTOVERS = _windows_1252()


def import_meld(source: Path, out: Path) -> Corpus:
    """Import the transcripts in the folder `source` into the corpus folder `out`.

    The dialogues of a split are sorted by their number and called `train_0`, `validation_3`, `test_12`;
    `media` holds the name of the clip, `dia0_uttY.mp4`. Times without duration (start not before end)
    or of another form are left out; the provenance counts them and the characters that were repaired.

    Raises:
        CorpusError: none of the three files is there, or one is broken (with its line).
    """
    frames, files, repaired, untimed = [], {}, 0, 0
    for split, file in FILES.items():
        if (source / file).exists():
            frame, leftovers, unusable = _read_split(source / file, split)
            frames.append(frame)
            files[split] = {"file": file, "sha256": records.sha256(source / file)}
            repaired, untimed = repaired + leftovers, untimed + unusable
    if not frames:
        raise CorpusError(f"{source} holds none of {', '.join(FILES.values())}")
    notes = [
        f"read {', '.join(file['file'] for file in files.values())}",
        f"{repaired} Windows-1252 leftovers repaired, {untimed} utterances without usable times",
    ]
    return write_corpus(
        out,
        name="meld",
        labels=LABELS,
        utterances=pd.concat(frames, ignore_index=True),
        features={},
        provenance={
            "source": "MELD transcripts (Poria et al., ACL 2019)",
            "files": files,
            "repaired_characters": repaired,
            "unusable_times": untimed,
            "notes": notes,
        },
    )


def _read_split(path: Path, split: str) -> tuple[pd.DataFrame, int, int]:
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
            "label": _labels(rows, path),
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


def _labels(rows: pd.DataFrame, path: Path) -> list[str | None]:
    column = records.column(rows, "Emotion", path)
    labels = [None if label is None else label.lower() for label in records.strings(column, path)]
    for line, label in zip(rows.index, labels, strict=True):
        if label is not None and label not in LABELS:
            raise CorpusError(f"{path}, line {line}: unknown emotion {label!r}; MELD has {', '.join(LABELS)}")
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
