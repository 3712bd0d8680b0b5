"""JSON as Whisper, WhisperX and whisper.cpp write it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transcript_files import complaint, read, timed, turns


def word(said: str, speaker: str | None = None, **times: float) -> dict[str, Any]:
    return {"word": said, **({} if speaker is None else {"speaker": speaker}), **times, "score": 0.9}


def document(*segments: dict[str, Any]) -> str:
    return json.dumps({"text": "all", "segments": segments, "language": "en"})


def test_whisper(tmp_path: Path) -> None:
    segments = [
        {
            "id": 1,
            "seek": 0,
            "start": 2.0,
            "end": 3.0,
            "text": " Two.",
            "tokens": [1],
            "words": [word(" Two.")],
        },
        {"id": 0, "start": 0.0, "end": 1.5, "text": " One.", "words": []},
        {"id": 2, "start": 4.0, "end": 5.0, "text": " "},
    ]
    (conversation,) = read(tmp_path, "talk.JSON", document(*segments))
    assert conversation.id == "talk"
    assert timed(conversation) == [(0, 1500, "", "One."), (2000, 3000, "", "Two.")]
    assert "no utterances" in complaint(tmp_path, "a.json", document(segments[2]))


def test_whisper_cpp(tmp_path: Path) -> None:
    content = {
        "params": {"language": "en"},
        "transcription": [
            {
                "timestamps": {"from": "00:00:00,000", "to": "00:00:01,500"},
                "offsets": {"from": 0, "to": 1500},
                "text": " Hi",
            },
            {"offsets": {"from": 1500, "to": 2000}, "text": " Ho", "speaker": "1"},
        ],
    }
    (conversation,) = read(tmp_path, "a.json", json.dumps(content))
    assert timed(conversation) == [(0, 1500, "", "Hi"), (1500, 2000, "1", "Ho")]


def test_whisperx_speakers(tmp_path: Path) -> None:
    segments = [
        {"start": 0, "end": 1, "text": "Hi", "speaker": "SPEAKER_01"},
        {"start": 1, "end": 2, "text": "Ho"},  # inherits nothing
        {"start": 2, "end": 3, "text": "No", "words": [word("No", "SPEAKER_02", start=2, end=3)]},
    ]
    assert turns(read(tmp_path, "a.json", document(*segments))[0]) == [
        ("SPEAKER_01", "Hi"),
        ("", "Ho"),
        ("SPEAKER_02", "No"),
    ]


def test_a_segment_is_cut_where_the_speaker_changes(tmp_path: Path) -> None:
    words = [
        word("How"),
        word("are", "A", start=0.2, end=0.4),
        word("you?", "A", start=0.5, end=0.9),
        word("2"),
        word("Fine,", "B", start=1.1, end=1.5),
        word("thanks.", "B"),
        word("Good.", "A"),
    ]
    segment = {
        "start": 0.1,
        "end": 3,
        "text": " How are you? 2  Fine, thanks. Good.",
        "words": words,
        "speaker": "A",
    }
    assert timed(read(tmp_path, "a.json", document(segment))[0]) == [
        (100, 1100, "A", "How are you? 2"),
        (1100, 3000, "B", "Fine, thanks."),
        (1500, 3000, "A", "Good."),
    ]


def test_the_text_says_where_blanks_are(tmp_path: Path) -> None:
    words = [
        word(c, s, start=i, end=i + 1) for i, (c, s) in enumerate([("你", "A"), ("好", "A"), ("嗨", "B")])
    ]
    for text, expected in [
        ("你好。嗨", ["你好。", "嗨"]),
        ("other", ["你 好", "嗨"]),
        ("你好嗨!", ["你好", "嗨!"]),
    ]:
        segment = {"start": 0, "end": 3, "text": text, "words": words, "label": "joy"}
        (conversation,) = read(tmp_path, "a.json", document(segment))
        assert [u.text for u in conversation] == expected
        assert [u.label for u in conversation] == ["joy", "joy"]


def test_segments_without_times_stay_in_order(tmp_path: Path) -> None:
    (conversation,) = read(tmp_path, "a.json", document({"text": "a", "start": 5}, {"text": "b"}))
    assert [u.text for u in conversation] == ["a", "b"]


@pytest.mark.parametrize(
    ("segment", "parts"),
    [
        ({"start": 2, "end": 1, "text": "a"}, ["segment 1", "ends at 1000 ms"]),
        ({"start": -1, "end": 1, "text": "a"}, ["segment 1", "start", "greater"]),
        ({"start": float("nan"), "end": 1, "text": "a"}, ["segment 1", "start", "finite"]),
        ({"start": 1e300, "text": "a"}, ["segment 1", "start"]),
        ({"start": 0, "end": 1}, ["segment 1", "needs a text"]),
        ({"text": ["a"], "start": 0}, ["segment 1", "text", "string"]),
        ({"text": [], "start": 0}, ["segment 1", "text", "string"]),
        ({"text": ["a"], "words": [word("a", "A"), word("b", "B")]}, ["segment 1", "text", "string"]),
        ({"text": "a b", "words": [word("a", "A"), "b"]}, ["segment 1, word 2"]),
        ({"text": "a", "words": [{"speaker": "A"}]}, ["segment 1, word 1"]),
        ({"text": "a", "words": [word("a"), {"word": "b", "speaker": ["A"]}]}, ["segment 1, word 2"]),
        ({"text": "a b", "words": [word("a", "A", start=-1), word("b", "B")]}, ["segment 1", "start"]),
        (
            {"text": "a b", "words": [word("a", "A", start=9), word("b", "B", end=3)]},
            ["segment 1", "ends at"],
        ),
        ({"text": "a", "offsets": 3}, ["segment 1", "offsets"]),
        ({"text": "a", "offsets": {"from": "x", "to": 3}}, ["segment 1", "start_ms"]),
    ],
)
def test_broken_segments(tmp_path: Path, segment: dict[str, Any], parts: list[str]) -> None:
    text = complaint(tmp_path, "a.json", document(segment))
    assert all(part in text for part in parts), text
