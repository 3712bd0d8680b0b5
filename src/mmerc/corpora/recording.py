"""Recordings with transcripts: each recording is one dialogue, each line of its transcript one utterance."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmerc.conversation import Conversation
from mmerc.corpora import records
from mmerc.corpora.label_maps import LabelMap, apply_label_map, map_note
from mmerc.corpus import Corpus, write_corpus
from mmerc.errors import CorpusError
from mmerc.media import media_table
from mmerc.transcripts import read_transcript

# Which kind a file is can be told for certain only by decoding it; these are the suffixes to look for.
SOUND = frozenset(
    (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma")
)
PICTURES = frozenset(
    (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
)


def import_recordings(
    pairs: Sequence[tuple[Path, Path]],
    out: Path,
    *,
    labels: Sequence[str] | None = None,
    label_map: LabelMap | None = None,
    name: str | None = None,
) -> Corpus:
    """Import recordings and their transcripts into the corpus folder `out`, without features.

    A dialogue is called after its recording. Utterances keep the order of the transcript; where they
    overlap, so do their spans in the media. Transcripts without any label make a corpus without labels, on
    which nothing can be trained or scored. There are no splits.

    Args:
        pairs: a recording (sound, or sound and pictures) and its transcript (`read_transcript`) each.
        out: the corpus folder.
        labels: label names in class order; by default those of the map, or those that occur, sorted.
        label_map: what becomes of the labels in the transcripts.
        name: name of the corpus; by default that of the folder.

    Raises:
        CorpusError: no pairs, a recording that does not exist, two of one name, an utterance without times,
            a transcript of several dialogues, or labels that cannot be used.
        ConversationError: a transcript cannot be read.
    """
    if not pairs:
        raise CorpusError("there are no recordings to import")
    if missing := [media for media, _ in pairs if not media.is_file()]:
        raise CorpusError(f"{missing[0]} does not exist, or is not a file")
    root = _common_folder([media.resolve().parent for media, _ in pairs])
    frames, notes = [], []
    for media, transcript in pairs:
        conversation = _only(read_transcript(transcript), transcript)
        frames.append(_utterances(media.resolve().relative_to(root), conversation, transcript))
        if (out_of_order := int((frames[-1]["start_ms"].diff() < 0).sum())) > 0:
            notes.append(f"{transcript.name}: {out_of_order} utterances start before the one above them")
    utterances = pd.concat(frames, ignore_index=True)
    _require_own_names(frames)
    label_names, told = _labelled(utterances, labels, label_map, pairs)
    return write_corpus(
        out,
        name=name or out.resolve().name,
        labels=label_names,
        utterances=utterances,
        features={},
        tables={"media": _media(utterances)},
        provenance={
            "source": "recordings",
            "media_root": str(root),
            "transcripts": [{"file": path.name, "sha256": records.sha256(path)} for _, path in pairs],
            "notes": [
                f"read {len(pairs)} recordings: {records.first_few([media.name for media, _ in pairs])}",
                *told,
                *notes,
            ],
        },
    )


def has_pictures(file: str) -> bool:
    """Return whether a media file may hold pictures, going by its suffix."""
    return Path(file).suffix.lower() not in SOUND


def _common_folder(folders: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        raise CorpusError("the recordings lie on several drives: bring them to one") from None


def _only(conversations: list[Conversation], transcript: Path) -> Conversation:
    if len(conversations) != 1:
        raise CorpusError(
            f"{transcript} holds {len(conversations)} dialogues, but belongs to one recording: give each "
            "recording a transcript of its own, or name the files in a table (column media)"
        )
    return conversations[0]


def _utterances(media: Path, conversation: Conversation, transcript: Path) -> pd.DataFrame:
    for number, utterance in enumerate(conversation, start=1):
        where = f"{transcript}, utterance {number} ({utterance.text[:40]!r})"
        if utterance.start_ms is None or utterance.end_ms is None:
            raise CorpusError(f"{where} has no start or no end: which part of {media.name} is it?")
        if utterance.end_ms < utterance.start_ms:
            raise CorpusError(f"{where} ends at {utterance.end_ms} ms, before it starts: correct its times")
    return pd.DataFrame(
        {
            "dialogue_id": media.with_suffix("").as_posix(),
            "utterance_index": range(len(conversation)),
            "speaker": [utterance.speaker or None for utterance in conversation],
            "text": [utterance.text for utterance in conversation],
            "start_ms": pd.array([u.start_ms for u in conversation], dtype="Int64"),
            "end_ms": pd.array([u.end_ms for u in conversation], dtype="Int64"),
            "label": pd.Series([utterance.label for utterance in conversation], dtype=object),
            "media": media.as_posix(),
        }
    )


def _require_own_names(frames: Sequence[pd.DataFrame]) -> None:
    files: dict[str, str] = {}
    for frame in frames:
        dialogue, media = str(frame["dialogue_id"].iloc[0]), str(frame["media"].iloc[0])
        if dialogue in files:
            raise CorpusError(f"{files[dialogue]} and {media} are both called {dialogue!r}: rename one")
        files[dialogue] = media


def _labelled(
    utterances: pd.DataFrame,
    labels: Sequence[str] | None,
    label_map: LabelMap | None,
    pairs: Sequence[tuple[Path, Path]],
) -> tuple[list[str], list[str]]:
    """Map the labels in place; return the label names and notes."""
    notes = []
    where = pairs[0][1] if len(pairs) == 1 else "the transcripts"
    if label_map is not None:
        given = utterances["label"]
        utterances["label"] = apply_label_map(given, label_map, where)
        notes.append(map_note(given, label_map))
        labels = label_map.labels if labels is None else labels
    found = sorted(utterances["label"].dropna().unique())
    names = found if labels is None else list(labels)
    if unknown := [label for label in found if label not in names]:
        near = records.nearest(unknown[0], names)
        raise CorpusError(f"{where}: unknown label {unknown[0]!r}{near}; labels are {', '.join(names)}")
    if len(names) == 1:
        raise CorpusError(f"{where}: the only label is {names[0]!r}: name all classes (--labels)")
    if not found:
        notes.append("no utterance has a label: nothing can be trained or scored on it")
    return names, notes


def _media(utterances: pd.DataFrame) -> pd.DataFrame:
    files = utterances["media"]
    return media_table(
        {
            "audio_file": files,
            "audio_start_ms": utterances["start_ms"],
            "audio_end_ms": utterances["end_ms"],
            "visual_file": files.where(files.map(has_pictures), None),
            "visual_start_ms": utterances["start_ms"],
            "visual_end_ms": utterances["end_ms"],
        }
    )
