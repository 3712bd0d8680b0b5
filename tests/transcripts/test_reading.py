import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transcript_files import complaint, one_folder, read, turns

from mmerc.conversation import Conversation
from mmerc.errors import ConversationError
from mmerc.transcripts import read_transcript

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(str.strip)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
moments = st.none() | st.integers(0, 10**9)


@st.composite
def utterances(draw: st.DrawFn) -> dict[str, Any]:
    start = draw(moments)
    end = None if start is None else start + draw(st.integers(0, 10**6))
    label = draw(st.none() | st.sampled_from(["joy", "anger"]))
    return {
        "text": draw(texts),
        "speaker": draw(names),
        "label": label,
        "start_ms": start,
        "end_ms": end,
    }


def same(conversation: Conversation, rows: list[dict[str, Any]]) -> bool:
    return [{k: getattr(u, k) for k in row} for u, row in zip(conversation, rows, strict=True)] == rows


@one_folder
@given(st.lists(utterances(), min_size=1, max_size=6))
def test_round_trip_through_json(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, content in [
        ("chat.jsonl", lines),
        ("chat.json", json.dumps(rows)),
        ("chat.json", json.dumps({"utterances": rows})),
    ]:
        (conversation,) = read(tmp_path, name, content)
        assert same(conversation, rows)
        assert conversation.id == "chat"


@one_folder
@given(st.lists(utterances(), min_size=1, max_size=6), st.sampled_from(",;\t"))
def test_round_trip_through_csv(tmp_path: Path, rows: list[dict[str, Any]], separator: str) -> None:
    table = StringIO()
    writer = csv.DictWriter(table, list(rows[0]), delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    (conversation,) = read(tmp_path, "chat.csv", table.getvalue())
    assert same(conversation, rows)


suffixes = st.sampled_from(["csv", "tsv", "json", "jsonl", "txt"])
almost = st.text(st.sampled_from('a1:,;"\n\r\t{}[] \\\0é'), max_size=40)


@settings(one_folder, max_examples=300)
@given(
    suffixes, st.binary(max_size=60) | almost.map(str.encode) | almost.map(lambda t: b"text,a\n" + t.encode())
)
@example("csv", b'text\n"')
@example("jsonl", b"[" * 100_000)
@example("json", b"9" * 10_000)
@example("json", b'{"text": 1' + b"0" * 4000 + b"}")
@example("json", b'{"text": "", "start": 1e308}')
@example("json", b'{"text": "\\ud800"}')
def test_junk_is_read_or_refused_but_never_crashes(tmp_path: Path, suffix: str, content: bytes) -> None:
    try:
        conversations = read(tmp_path, f"junk.{suffix}", content)
    except ConversationError:
        return
    assert all(len(conversation) for conversation in conversations)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Anna: Hi\nBob: Hello: you\n", [("Anna", "Hi"), ("Bob", "Hello: you")]),
        ("Anna: Hi\r\n\r\n\r\nBob: Hello", [("Anna", "Hi"), ("Bob", "Hello")]),
        ("Anna: Hi\nand more\n  of it\nBob: Yes", [("Anna", "Hi and more of it"), ("Bob", "Yes")]),
        ("ANNA:\nHello there.\nBOB:\n", [("ANNA", "Hello there."), ("BOB", "")]),
        ("How are you?\nFine.\n\nGood.", [("", "How are you?"), ("", "Fine."), ("", "Good.")]),
        ("Anna: look\nhttps://example.org: nice", [("Anna", "look https://example.org: nice")]),
        ("Anna: when?\n12:30 or so", [("Anna", "when? 12:30 or so")]),
        ("https://example.org\n12:30", [("", "https://example.org"), ("", "12:30")]),
        ("Anna: x\nOh no. I mean: yes", [("Anna", "x Oh no. I mean: yes")]),
        ("Anna: x\n" + "long " * 9 + ": y", [("Anna", "x " + "long " * 9 + ": y")]),
        (
            "Dr. Green: a\nSPEAKER_00: b\nNurse #1: c",
            [("Dr. Green", "a"), ("SPEAKER_00", "b"), ("Nurse #1", "c")],
        ),
        ("[SPEAKER_00]: a\n[SPEAKER_01]: b", [("SPEAKER_00", "a"), ("SPEAKER_01", "b")]),
        ("张伟：你好\nАнна: привет 😀", [("张伟", "你好"), ("Анна", "привет 😀")]),
        ("[00:01:02] Anna: Hi\n[00:01:04.5] Bob: Ho", [("Anna", "Hi"), ("Bob", "Ho")]),
        ("[12:30, 3/4/2024] Anna: Hi\nmore", [("Anna", "Hi more")]),
        ("\u200e[3/4/24, 9:15:02\u202fPM] Anna: Hi", [("Anna", "Hi")]),
        ("12/31/23, 9:15 PM - Anna: Hi\n12/31/23, 9:16 PM - Bob: Ho", [("Anna", "Hi"), ("Bob", "Ho")]),
        ("31.12.23, 21:15 - Anna: Hi", [("Anna", "Hi")]),
        ("00:01:02 Anna: Hi\n00:03 Bob: Ho", [("Anna", "Hi"), ("Bob", "Ho")]),
        ("Anna: a\n[12:31] Anna left\nmore\nBob: b", [("Anna", "a"), ("", "Anna left more"), ("Bob", "b")]),
        ("Scene 1\nAnna: a\nBob: b\nAnna: c", [("", "Scene 1"), ("Anna", "a"), ("Bob", "b"), ("Anna", "c")]),
        # one prefix in the middle of a monologue is part of the text
        ("I left.\nMy point: no.\nYes.", [("", "I left."), ("", "My point: no."), ("", "Yes.")]),
    ],
)
def test_plain_lines(tmp_path: Path, content: str, expected: list[tuple[str, str]]) -> None:
    (conversation,) = read(tmp_path, "talk.txt", content)
    assert turns(conversation) == expected
    assert conversation.id == "talk"


def test_any_other_suffix_is_plain_text(tmp_path: Path) -> None:
    assert turns(read(tmp_path, "chat.log", "Anna: Hi")[0]) == [("Anna", "Hi")]
    assert turns(read(tmp_path, "chat", "Anna: Hi")[0]) == [("Anna", "Hi")]


@pytest.mark.parametrize(
    "line", ["00:00:01,000 --> 00:00:02,000", "{25}{50}Hi", "Dialogue: 0,0:00:01.00,0:00:02.00,,,0,0,0,,Hi"]
)
def test_subtitles_are_refused_rather_than_misread(tmp_path: Path, line: str) -> None:
    text = complaint(tmp_path, "film.txt", f"1\n{line}\nHello\n")
    assert "line 2" in text
    assert "name it .srt, .vtt or .ass" in text


def test_csv_with_other_names_and_several_conversations(tmp_path: Path) -> None:
    content = (
        "Conversation-ID,Author,Message,Emotion,Start,End,other\n"
        "b,Anna,Hi,joy,1.5,2.25,x\na,Bob,,,,,\nb, Bob ,null,,3,3,\n"
    )
    first, second = read(tmp_path, "chat.csv", content)
    assert (first.id, second.id) == ("b", "a")
    assert turns(first) == [("Anna", "Hi"), ("Bob", "null")]
    assert turns(second) == [("Bob", "")]
    assert first.utterances[0].label == "joy"
    assert (first.utterances[0].start_ms, first.utterances[0].end_ms) == (1500, 2250)
    assert second.utterances[0].label is None
    assert second.utterances[0].start_ms is None


def test_csv_of_texts_alone_keeps_the_empty_one(tmp_path: Path) -> None:
    assert [u.text for u in read(tmp_path, "a.csv", 'text\nHi\n""\nBye\n')[0]] == ["Hi", "", "Bye"]


def test_csv_prefers_the_first_of_several_names(tmp_path: Path) -> None:
    (conversation,) = read(tmp_path, "a.csv", "name,speaker,message,text\nfull,short,no,yes\n")
    assert turns(conversation) == [("short", "yes")]


def test_csv_of_the_common_separators(tmp_path: Path) -> None:
    for name, content in [
        ("a.csv", "speaker;text\nAnna;Hi, you\n"),
        ("a.tsv", "speaker\ttext\nAnna\tHi, you\n"),
        ("a.CSV", 'speaker, text\nAnna, "Hi, you"\n'),
    ]:
        assert turns(read(tmp_path, name, content)[0]) == [("Anna", "Hi, you")]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            "speaker,txt\nAnna,Hi\n",
            ["no column for the text", "'speaker'", "'txt'", "is 'txt' meant", "utterance"],
        ),
        ("text,Text\na,b\n", ["'text' is there 2 times"]),
        ("text,start_ms\na,1\nb,soon\n", ["row 2", "start_ms", "number", "'soon'"]),
        ("text,start\na,00:61\n", ["row 1", "start (in seconds, or as 0:01:02.5)", "'00:61'"]),
        ("text,start\na,-0:01\n", ["row 1", "start", "'-0:01'"]),
        ("text,start\na,-1\n", ["row 1", "start", "greater than or equal to 0"]),
        ("text,start\na,nan\n", ["row 1", "start", "finite"]),
        ("text,start,end\na,3,2\n", ["row 1", "ends at 2000 ms", "3000 ms"]),
        ("speaker,text\nAnna,Hi, you\n", ["line 2", "double quotes"]),
        ('speaker,text\nAnna,"Hi\n', ["double quotes"]),
        ("dialogue_id,text\na,Hi\n,Ho\n", ["row 2", "no dialogue_id"]),
        ("speaker,text\n", ["no utterances"]),
    ],
)
def test_broken_tables(tmp_path: Path, content: str, parts: list[str]) -> None:
    text = complaint(tmp_path, "chat.csv", content)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        ("00:01:02,500", 62_500),
        ("1:02.5", 62_500),
        ("0:59.9996", 60_000),
        ("75:00", 4_500_000),
        ("100:00:00", 360_000_000),
        ("62.5", 62_500),
    ],
)
def test_times_may_be_clocks(tmp_path: Path, clock: str, expected: int) -> None:
    rows = [{"text": "a", "StartTime": clock, "EndTime": clock}]
    for name, content in [
        ("a.csv", f'text,start,end\na,"{clock}","{clock}"\n'),
        ("a.jsonl", json.dumps(rows[0])),
        ("a.json", json.dumps(rows)),
    ]:
        (utterance,) = read(tmp_path, name, content)[0]
        assert (utterance.start_ms, utterance.end_ms) == (expected, expected)


def test_the_table_that_whisper_writes_has_milliseconds(tmp_path: Path) -> None:
    (utterance,) = read(tmp_path, "a.tsv", "start\tend\ttext\n500\t2000\tHi\n")[0]
    assert (utterance.start_ms, utterance.end_ms) == (500, 2000)
    (utterance,) = read(tmp_path, "a.tsv", "start\tend\tspeaker\ttext\n5\t20\tAnna\tHi\n")[0]
    assert (utterance.start_ms, utterance.end_ms) == (5000, 20000)


def test_json_forms(tmp_path: Path) -> None:
    one = {"speaker": "Anna", "text": "Hi", "start": 0.5}
    assert read(tmp_path, "a.json", json.dumps(one))[0].utterances[0].start_ms == 500
    (named,) = read(tmp_path, "a.json", json.dumps({"id": "first", "utterances": [one, one]}))
    assert (named.id, len(named)) == ("first", 2)
    several = [{"id": 7, "utterances": [one]}, {"segments": [one, one]}]
    for name, content in [
        ("a.json", json.dumps(several)),
        ("a.jsonl", "\n\n".join(map(json.dumps, several))),
    ]:
        conversations = read(tmp_path, name, content)
        assert [len(c) for c in conversations] == [1, 2]
        assert conversations[0].id == "7"
        assert conversations[1].id.startswith("a-")


def test_json_rows_gather_by_dialogue(tmp_path: Path) -> None:
    rows = [{"text": t, "dialogue_id": d} for t, d in [("1", 2), ("2", 1), ("3", 2)]]
    assert [(c.id, [u.text for u in c]) for c in read(tmp_path, "a.json", json.dumps(rows))] == [
        ("2", ["1", "3"]),
        ("1", ["2"]),
    ]


def test_json_features(tmp_path: Path) -> None:
    row = {"speaker": "A", "features": {"audio": [1, 2.5], "video": None, "text": [0.1]}}
    (utterance,) = read(tmp_path, "a.jsonl", json.dumps(row))[0]
    assert set(utterance.features) == {"audio", "text"}
    assert all(vector.dtype == np.float32 for vector in utterance.features.values())
    np.testing.assert_array_equal(utterance.features["audio"], [1, 2.5])
    assert utterance.text == ""


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            '{"text": "a"}\n{"text": "b", "features": {"audio": [1, NaN]}}',
            ["line 2", "features.audio.1", "finite"],
        ),
        ('{"text": "a", "features": {"audio": [1e39]}}', ["line 1", "features.audio.0"]),
        ('{"text": "a", "features": {"audio": []}}', ["features.audio", "at least 1"]),
        ('{"text": "a", "features": {"audio": [[1]]}}', ["features.audio.0", "number"]),
        ('{"text": "a", "features": [1]}', ["features", "dictionary"]),
        ('{"text": "a"}\n\n{"speaker": "b"}', ["line 3", "needs a text or features"]),
        ('{"speaker": "b", "features": {"audio": null}}', ["line 1", "needs a text or features"]),
        ('{"text": ["a"]}', ["line 1", "text", "string"]),
        ('{"text": "a"}\n{"text": ', ["line 2", "not JSON"]),
        ("[]", ["line 1", "expected an object", "list"]),
        ("null", ["line 1", "null"]),
        ('{"utterances": []}', ["line 1", "at least one utterance"]),
        ('{"utterances": ["a"]}', ["line 1, utterance 1", "str"]),
        ('{"text": "a", "Text": "b"}', ["line 1", "'text' is there 2 times"]),
        ('{"text": "a"}\n{"id": "x", "utterances": [{"text": "b"}]}', ["line 1", "no dialogue_id"]),
    ],
)
def test_broken_json_lines(tmp_path: Path, content: str, parts: list[str]) -> None:
    text = complaint(tmp_path, "chat.jsonl", content)
    assert all(part in text for part in parts), text


def test_the_two_kinds_of_json_point_to_each_other(tmp_path: Path) -> None:
    assert ".jsonl" in complaint(tmp_path, "a.json", '{"text": "a"}\n{"text": "b"}')
    assert ".json" in complaint(tmp_path, "a.jsonl", '[\n{"text": "a"}\n]')
    assert "item 2" in complaint(tmp_path, "a.json", '[{"text": "a"}, 3]')


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    line = "Zoë: 你好 😀"
    assert turns(read(tmp_path, "a.txt", line.encode(encoding))[0]) == [("Zoë", "你好 😀")]
    content = f"speaker,text\n{line.replace(': ', ',')}\n".encode(encoding)
    assert turns(read(tmp_path, "a.csv", content)[0]) == [("Zoë", "你好 😀")]
    content = b"\n".join([json.dumps({"text": "😀"}, ensure_ascii=False).encode("utf-8-sig")])
    assert read(tmp_path, "a.jsonl", content)[0].utterances[0].text == "😀"


def test_other_encodings_are_named(tmp_path: Path) -> None:
    text = complaint(tmp_path, "a.txt", b"Anna: Hi\nZo\xeb: Hi")
    assert "byte 11 (0xeb, line 2) is not utf-8" in text
    assert "iconv" in text
    assert "not a text file" in complaint(tmp_path, "a.txt", "Anna: Hi".encode("utf-16-le"))
    assert "utf-16" in complaint(tmp_path, "a.txt", "Hi".encode("utf-16") + b"\xd8")


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json", "a.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n \n\n", b"\xef\xbb\xbf"])
def test_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    complaint(tmp_path, name, content)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConversationError, match="does not exist"):
        read_transcript(tmp_path / "missing.csv")
    with pytest.raises(ConversationError, match="is a folder"):
        read_transcript(str(tmp_path))
    with pytest.raises(ConversationError, match="cannot be read"):
        read_transcript(tmp_path / "a\0b")
    with pytest.raises(ConversationError, match="cannot be read"):
        read_transcript(tmp_path / ("x" * 5000))
    assert "not a text file" in complaint(tmp_path, "a.txt", b"PK\x03\x04\0\0\xff")
