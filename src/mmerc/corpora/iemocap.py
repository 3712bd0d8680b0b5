"""IEMOCAP_full_release: dialogues of ten actors in pairs (Busso et al., LREV 42, 2008).

What an utterance is, when, and what it expresses: `dialog/EmoEvaluation/Ses01F_impro01.txt`. Its words:
`dialog/transcriptions`, which also holds turns that nobody rated (`Ses01F_impro06_MXX0`) and lines without
times (`M: …`). Its sound: a file of its own under `sentences/wav`. Its pictures: the dialogue's film under
`dialog/avi/DivX`, a split screen with one actor in each half.

Which half is whose: the letter of a dialogue (the F of Ses01F) names the actor who wears the markers (README
of the release), and that actor is on the left. The README does not say the second part. It is what
four independently written preparations of the corpus do: zeroQiaoba/MERTools (MERBench/toolkit/preprocess/
iemocap.py), wenliangdai/Multimodal-End2end-Sparse (`use_left` in src/datasets.py),
IoannisKansizoglou/Iemocap-preprocess ("female speaker is on the left side" of an F dialogue;
extractionmapCreator.py), and one more for the splits of EmoBox. One that we found takes women for left in
every dialogue; it does not look at the letter at all. We are therefore confident, but have not seen the
films: look at one face of each session before relying on it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mmerc.corpora import records
from mmerc.corpora.label_maps import LabelMap, apply_label_map, map_note, read_label_map
from mmerc.corpora.peer_pickles import VALIDATION_SHARE
from mmerc.corpus import Corpus, draw_validation, write_corpus
from mmerc.errors import CorpusError
from mmerc.media import media_table

EMOTIONS: dict[str, str | None] = {
    "hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated",
    "fea": "fearful", "dis": "disgusted", "sur": "surprised", "oth": "other",
    "xxx": None,  # the annotators did not agree
}  # fmt: skip
TEST_SESSION = 5

_RATING = re.compile(
    r"\[\s*(?P<start>\d+(\.\d+)?)\s*-\s*(?P<end>\d+(\.\d+)?)\s*\]\s+"
    r"(?P<name>(?P<dialogue>Ses0[1-5][FM]_\w+)_(?P<actor>[FM])\d+)\s+(?P<emotion>\w+)\b.*"
)
_SPOKEN = re.compile(r"(?P<name>Ses\S+)\s*\[[\d.\s-]+\]\s*:\s*(?P<text>.*)")


class _Turn(NamedTuple):
    """One rated utterance."""

    dialogue_id: str
    media: str  # its name in the release: Ses01F_impro01_F000
    speaker: str
    text: str
    start_ms: int
    end_ms: int
    label: str | None
    session: int


class _Oddities(NamedTuple):
    """What is to be told about the files, gathered while they are read."""

    not_rated: list[str]  # turns of a transcript without a rating
    other_lines: list[str]  # "file: line" of transcripts that are no turns
    unreadable: list[str]  # "file: line" of ratings
    silent: list[str]  # rated turns without a text
    untranscribed: list[str]  # dialogues

    def notes(self) -> list[str]:
        told = {
            "ratings could not be read": self.unreadable,
            "dialogues have no transcript": self.untranscribed,
            "rated utterances have no text": self.silent,
            "turns of the transcripts are not rated and left out": self.not_rated,
            "lines of the transcripts are no turns and left out": self.other_lines,
        }
        return [f"{len(n)} {what}: {records.first_few(n)}" for what, n in told.items() if n]


def is_iemocap(source: Path) -> bool:
    """Return whether a folder looks like IEMOCAP_full_release."""
    return bool(_sessions(source)[1])


def import_iemocap(
    source: Path, out: Path, *, label_map: LabelMap | None = None, labelled_only: bool = False
) -> Corpus:
    """Import IEMOCAP_full_release into the corpus folder `out`, without features.

    Dialogues and utterances are called as in the release (`Ses01F_impro01`; `media` holds
    `Ses01F_impro01_F000`), utterances stand in the order of their beginnings, speakers are `Ses01_F`.
    Session 5 is the test split; a tenth of the other dialogues, drawn by `draw_validation`, is for
    validation: the 12 of 120 that the field's feature pickles are given as well.

    Args:
        source: the folder with Session1 … Session5.
        out: the corpus folder.
        label_map: by default `iemocap-6`; it maps the names in `EMOTIONS`.
        labelled_only: leave utterances without a label out, as the feature pickles do, rather than keep
            them as context.

    Raises:
        CorpusError: no sessions, a session without ratings, or an emotion that the map does not name.
    """
    root, sessions = _sessions(source.resolve())
    if not sessions:
        raise CorpusError(f"{source} holds no folder Session1 … Session5 with dialog/EmoEvaluation in it")
    oddities = _Oddities([], [], [], [], [])
    turns = [turn for number, folder in sessions.items() for turn in _read_session(number, folder, oddities)]
    if not turns:
        raise CorpusError(f"{source}: the files in dialog/EmoEvaluation hold no ratings")
    frame = pd.DataFrame(turns)
    label_map = label_map or read_label_map("iemocap-6")
    given = frame["label"]
    frame["label"] = apply_label_map(given, label_map, "IEMOCAP")
    notes = [*_session_notes(sessions), map_note(given, label_map), _unlabelled(frame, given, labelled_only)]
    if labelled_only:
        frame = frame[frame["label"].notna()].reset_index(drop=True)
    frame["utterance_index"] = frame.groupby("dialogue_id").cumcount()
    frame["split"], drawn = _splits(frame)
    media, missing = _media(frame, root)
    return write_corpus(
        out,
        name="iemocap",
        labels=label_map.labels,
        utterances=frame,
        features={},
        tables={"media": media},
        provenance={
            "source": "IEMOCAP_full_release (Busso et al., 2008)",
            "media_root": str(root),
            "notes": [*notes, drawn, *oddities.notes(), *missing],
        },
    )


def _sessions(source: Path) -> tuple[Path, dict[int, Path]]:
    """Return the root of the release, which may lie one folder deeper, and its sessions."""
    found: dict[int, Path] = {}
    for root in (source, source / "IEMOCAP_full_release"):
        folders = {number: root / f"Session{number}" for number in range(1, 6)}
        found = {n: f for n, f in folders.items() if (f / "dialog" / "EmoEvaluation").is_dir()}
        if found:
            return root, found
    return source, found


def _read_session(number: int, folder: Path, oddities: _Oddities) -> Iterator[_Turn]:
    for path in sorted((folder / "dialog" / "EmoEvaluation").glob("Ses*.txt")):
        transcript = folder / "dialog" / "transcriptions" / path.name
        texts = _texts(transcript, oddities)
        turns = list(_ratings(path, number, texts, oddities))
        oddities.not_rated.extend(sorted(texts.keys() - {turn.media for turn in turns}))
        yield from sorted(turns, key=lambda turn: (turn.start_ms, turn.end_ms, turn.media))


def _ratings(path: Path, session: int, texts: dict[str, str], oddities: _Oddities) -> Iterator[_Turn]:
    seen = set()
    for line in _lines(path):
        if not line.startswith("["):
            continue  # what single annotators said
        match = _RATING.fullmatch(line)
        start, end = (round(float(time) * 1000) for time in match.group("start", "end")) if match else (0, 0)
        if match is None or end <= start or match["dialogue"] != path.stem or match["name"] in seen:
            oddities.unreadable.append(f"{path.name}: {line[:60]}")
            continue
        name, emotion = match["name"], match["emotion"]
        if emotion not in EMOTIONS:
            raise CorpusError(f"{path}: {name}: unknown emotion {emotion!r}; known are {', '.join(EMOTIONS)}")
        seen.add(name)
        text = texts.get(name, "")
        if not text:
            oddities.silent.append(name)
        speaker = f"Ses{session:02}_{match['actor']}"
        yield _Turn(path.stem, name, speaker, text, start, end, EMOTIONS[emotion], session)


def _texts(path: Path, oddities: _Oddities) -> dict[str, str]:
    if not path.is_file():
        oddities.untranscribed.append(path.stem)
        return {}
    texts: dict[str, str] = {}
    for line in _lines(path):
        match = _SPOKEN.fullmatch(line)
        if match is None:
            oddities.other_lines.append(f"{path.name}: {line[:60]}")
        else:
            texts[match["name"]] = match["text"].strip()
    return texts


def _lines(path: Path) -> list[str]:
    raw = records.read_bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _session_notes(sessions: dict[int, Path]) -> list[str]:
    missing = [f"Session{number}" for number in range(1, 6) if number not in sessions]
    if not missing:
        return []
    without = ": there is no test split" if TEST_SESSION not in sessions else ""
    return [f"{', '.join(missing)} missing{without}"]


def _unlabelled(frame: pd.DataFrame, given: "pd.Series[str]", left_out: bool) -> str:
    count = int(frame["label"].isna().sum())
    disagreed = int(given.isna().sum())
    fate = "left out" if left_out else "kept as context"
    return f"{count} of {len(frame)} utterances have no label ({disagreed} without agreement): {fate}"


def _splits(frame: pd.DataFrame) -> tuple[list[str], str]:
    """Return the split of every row, and how it was drawn."""
    of_test = frame["session"] == TEST_SESSION
    training = sorted(frame["dialogue_id"][~of_test].unique())
    count = max(1, round(VALIDATION_SHARE * len(training))) if len(training) > 1 else 0
    drawn = draw_validation(training, count)
    splits = pd.Series("train", index=frame.index)
    splits[frame["dialogue_id"].isin(drawn)] = "validation"
    splits[of_test] = "test"
    names = ", ".join(drawn) or "none"
    return splits.tolist(), f"{count} of {len(training)} training dialogues are for validation: {names}"


def _media(frame: pd.DataFrame, root: Path) -> tuple[pd.DataFrame, list[str]]:
    session = "Session" + frame["session"].astype(str)
    dialogue, name = frame["dialogue_id"], frame["media"]
    sounds = _there(session + "/sentences/wav/" + dialogue + "/" + name + ".wav", root)
    films = _there(session + "/dialog/avi/DivX/" + dialogue + ".avi", root)
    wearer, actor = dialogue.str[5], frame["speaker"].str[-1]
    seen = films.notna()
    media = media_table(
        {
            "audio_file": sounds,
            "visual_file": films,
            "visual_start_ms": frame["start_ms"].where(seen),
            "visual_end_ms": frame["end_ms"].where(seen),
            "visual_crop": (wearer == actor).map({True: "left", False: "right"}).where(seen),
        }
    )
    notes = []
    if missing := name[sounds.isna()].tolist():
        notes.append(f"{len(missing)} sound files missing under sentences/wav: {records.first_few(missing)}")
    if missing := list(dict.fromkeys(dialogue[~seen])):
        notes.append(f"{len(missing)} films missing under dialog/avi/DivX: {records.first_few(missing)}")
    return media, notes


def _there(files: "pd.Series[str]", root: Path) -> "pd.Series[str]":
    exists = {file: (root / file).is_file() for file in files.unique()}
    return files.where(files.map(exists), None)
