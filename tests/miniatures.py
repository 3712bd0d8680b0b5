"""Corpora of the field in small: the folders, names and tables of the originals, with clips of a second."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from screenplay import ANNA, BEN, CLEO, Line, Person, Script, Shot
from studio import film

SENTIMENTS = {"joy": "positive", "surprise": "positive", "neutral": "neutral"}  # all others are negative
FORK = b"\0\5\x16\7\0\2\0\0Mac OS X        "  # the originals hold such files beside some of their own
MELD: dict[str, list[list[tuple[Person, str, str]]]] = {  # folder of the clips → dialogues
    "train/train_splits": [
        [(ANNA, "I got the job!", "joy"), (BEN, "You did what?", "surprise"), (ANNA, "Look.", "neutral")],
        [(CLEO, "Who ate my lunch?", "anger"), (BEN, "It was old.", "disgust"), (CLEO, "No.", "sadness")],
        [(BEN, "What was that?", "fear"), (ANNA, "It was the cat.", "neutral")],
    ],
    "dev/dev_splits_complete": [
        [(CLEO, "We are late.", "fear"), (ANNA, "I know.", "neutral"), (CLEO, "Run!", "anger")],
    ],
    "test/output_repeated_splits_test": [
        [(BEN, "She has left.", "sadness"), (CLEO, "Oh no.", "surprise")],
        [(ANNA, "We won!", "joy"), (BEN, "Good.", "neutral")],
    ],
}
IEMOCAP = [  # after the first: who says what, as which of the annotators' emotions
    ("M", "You left it there.", "fru"),
    ("F", "I did not!", "ang"),
    ("M", "Look, there it is.", "exc"),
    ("F", "Well.", "xxx"),
]
RATINGS = "C-E1:\tNeutral;\t()\nC-F1:\tNeutral; Frustration;\t(curious)\nA-E1:\tval 3; act 2; dom  3;\t()\n"


def meld_tree(folder: Path, *, width: int = 240, height: int = 180, fps: int = 10) -> Path:
    """Write a MELD.Raw of 15 utterances with its transcripts into a new folder, and return it."""
    for place, dialogues in MELD.items():
        split = place.split("/")[0]
        (folder / place).mkdir(parents=True)
        rows = []
        for dialogue, turns in enumerate(dialogues):
            start_s = 600.0 * (dialogue + 1)  # in the episode
            for number, (person, text, emotion) in enumerate(turns):
                line = Line(person, text, 0.1, emotion)
                length_s = line.end_s + 0.1
                name = f"dia{dialogue}_utt{number}.mp4"
                script = Script((line,), (Shot(0, (person,)),), length_s)
                film(folder / place / name, script, width=width, height=height, fps=fps)
                (folder / place / f"._{name}").write_bytes(FORK)
                times = (_episode_time(start_s), _episode_time(start_s + length_s))
                sentiment = SENTIMENTS.get(emotion, "negative")
                rows.append((text, person.name, emotion, sentiment, dialogue, number, 4, 7, *times))
                start_s += length_s
        _meld_table(rows).to_csv(folder / split / f"{split}_sent_emo.csv", index=False)
        if split == "test":  # the original has second versions of some
            second = folder / place / "final_videos_testdia0_utt0.mp4"
            second.write_bytes((folder / place / "dia0_utt0.mp4").read_bytes())
    return folder


def _meld_table(rows: Sequence[tuple[object, ...]]) -> pd.DataFrame:
    columns = [
        "Utterance",
        "Speaker",
        "Emotion",
        "Sentiment",
        "Dialogue_ID",
        "Utterance_ID",
        "Season",
        "Episode",
    ]
    table = pd.DataFrame(rows, columns=[*columns, "StartTime", "EndTime"])
    table.insert(0, "Sr No.", range(1, len(table) + 1))
    return table


def _episode_time(seconds: float) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"


def iemocap_script(session: int, marked: str) -> tuple[Script, list[str]]:
    """Return a dialogue of two, with the actor who wears the markers on the left, and its turns' names."""
    actors = {
        "F": Person("F", 75 - session, 200, 2 * session),
        "M": Person("M", 20 + session, 200, 2 * session + 1),
    }
    lines: list[Line] = []
    names = []
    counts = {"F": 0, "M": 0}
    first = ("hap", "sad", "neu")[session % 3]  # so that all six emotions are there
    for actor, text, emotion in [("F", "Where is my bag?", first), *IEMOCAP]:
        lines.append(Line(actors[actor], text, round(lines[-1].end_s + 0.2, 1) if lines else 0.5, emotion))
        names.append(f"Ses{session:02}{marked}_impro01_{actor}{counts[actor]:03}")
        counts[actor] += 1
    seen = Shot(0, (actors[marked], actors["M" if marked == "F" else "F"]))
    return Script(tuple(lines), (seen,), round(lines[-1].end_s + 0.5, 1)), names


def iemocap_tree(folder: Path, *, width: int = 320, height: int = 240, fps: int = 10) -> Path:
    """Write an IEMOCAP_full_release of 6 dialogues of 5 utterances into a new folder, and return it.

    Session 1 has a dialogue for each actor with markers, the others one with the woman's. The last
    utterance of each has no agreed emotion (xxx); one turn of the transcript was not rated, and one line
    of it is no turn.
    """
    for session, marked in ((1, "F"), (1, "M"), (2, "F"), (3, "F"), (4, "F"), (5, "F")):
        script, names = iemocap_script(session, marked)
        dialogue = names[0].rsplit("_", 1)[0]
        place = folder / f"Session{session}"
        for part in ("transcriptions", "EmoEvaluation/Categorical", "avi/DivX", "wav"):
            (place / "dialog" / part).mkdir(parents=True, exist_ok=True)
        sentences = place / "sentences" / "wav" / dialogue
        sentences.mkdir(parents=True)
        for name, line in zip(names, script.lines, strict=True):
            film(sentences / f"{name}.wav", script.cut(line.start_s, line.end_s), sample_rate=16_000)
        film(place / f"dialog/avi/DivX/{dialogue}.avi", script, width=width, height=height, fps=fps)
        film(place / f"dialog/wav/{dialogue}.wav", script, sample_rate=16_000)
        _iemocap_texts(place / "dialog", dialogue, script, names)
    return folder


def _iemocap_texts(dialog: Path, dialogue: str, script: Script, names: list[str]) -> None:
    """Write the transcript and the evaluation of a dialogue."""
    turns = list(zip(names, script.lines, strict=True))
    spoken = [f"{name} [{x.start_s:08.4f}-{x.end_s:08.4f}]: {x.text}\n" for name, x in turns]
    unrated = f"{dialogue}_MXX0 [{script.length_s - 0.2:08.4f}-{script.length_s:08.4f}]: Hm.\n"
    words = "".join([*spoken, unrated, "M: [LAUGHTER]\n"])
    rated = [
        f"[{x.start_s:.4f} - {x.end_s:.4f}]\t{name}\t{x.label}\t[2.5000, 2.5000, 2.5000]\n{RATINGS}\n"
        for name, x in turns
    ]
    heading = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    (dialog / "transcriptions" / f"{dialogue}.txt").write_text(words, encoding="utf-8")
    (dialog / "transcriptions" / f"._{dialogue}.txt").write_bytes(FORK)
    (dialog / "EmoEvaluation" / f"{dialogue}.txt").write_text(heading + "".join(rated), encoding="utf-8")
    (dialog / "EmoEvaluation" / f"._{dialogue}.txt").write_bytes(FORK)
    own = "".join(f"{name} :Neutral state; ()\n" for name, _ in turns)
    (dialog / "EmoEvaluation" / "Categorical" / f"{dialogue}_e1_cat.txt").write_text(own, encoding="utf-8")
