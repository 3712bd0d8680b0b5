"""SubRip, WebVTT and SubStation."""

import time
from pathlib import Path

import pytest
from transcript_files import complaint, read, timed, turns

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello there.

2
00:00:03,000 --> 00:00:04,000 X1:10 X2:20 Y1:30 Y2:40
<font color="#fff">I am <i>fine</i>,</font>
{\\an8}thank you.
"""

VTT = """\ufeffWEBVTT - a title
Kind: captions

NOTE no cue

\x20\t

STYLE
::cue { color: red }

REGION
id:fred

intro
00:01.000 --> 00:02.000 align:start position:10%
<v.loud.first Anna Lee>Hello &amp; welcome</v>

NOTE
several lines
of comment

100:00:03.000 --> 100:00:04.000
<v Bob>Tom &lt;3</v> &gt;&gt; <c.yellow>who</c><00:00:03.500>?
"""

ASS = r"""[Script Info]
Title: a film

[V4+ Styles]
Format: Name, Fontname
Style: Default,Arial

[Events]
; a remark
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:09.00,Default,,0,0,0,,left out
Dialogue: 0,0:00:01.50,0:00:02.00,Default,Anna,0,0,0,,{\i1}Hello,{\i0}\Nworld
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\p1}m 0 0 l 9 9{\p0}
Dialogue: 0,0:00:00.50,0:00:01.00,Default,Bob,0,0,0,,{\k20}first\hone
"""


def srt(*texts: str) -> str:
    return "".join(
        f"{i}\n00:00:{2 * i:02},000 --> 00:00:{2 * i + 1:02},000\n{t}\n\n" for i, t in enumerate(texts, 1)
    )


def spoken(folder: Path, *texts: str) -> list[tuple[str, str]]:
    return turns(read(folder, "a.srt", srt(*texts))[0])


def test_subrip(tmp_path: Path) -> None:
    (conversation,) = read(tmp_path, "film.SRT", SRT)
    assert conversation.id == "film"
    expected = [(1000, 2500, "", "Hello there."), (3000, 4000, "", "I am fine, thank you.")]
    assert timed(conversation) == expected
    for ends in ("\r\n", "\r", "\r\r\n"):
        assert timed(read(tmp_path, "a.srt", SRT.replace("\n", ends))[0]) == expected


def test_webvtt(tmp_path: Path) -> None:
    expected = [
        (1000, 2000, "Anna Lee", "Hello & welcome"),
        (360_003_000, 360_003_600, "Bob", "Tom <3"),
        (360_003_600, 360_004_000, "", "who?"),
    ]
    for name in ("a.vtt", "a.srt"):  # under the wrong name too
        assert timed(read(tmp_path, name, VTT)[0]) == expected


def test_substation(tmp_path: Path) -> None:
    for name in ("a.ass", "a.ssa"):
        assert timed(read(tmp_path, name, ASS)[0]) == [
            (500, 1000, "Bob", "first one"),
            (1500, 2000, "Anna", "Hello, world"),
        ]


def test_voices_share_the_time_of_a_cue(tmp_path: Path) -> None:
    content = "WEBVTT\n\n00:00.000 --> 00:10.000\n<v Anna>Hi</v>\n<v Bob>Good day\n<v Anna Lee>"
    assert timed(read(tmp_path, "a.vtt", content)[0]) == [
        (0, 2000, "Anna", "Hi"),
        (2000, 10000, "Bob", "Good day"),
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Anna: Hi", "you", "Bob: Ho"], [("Anna", "Hi"), ("", "you"), ("Bob", "Ho")]),
        (["Hi", "ANNA:\nwell", "ANNA: yes"], [("", "Hi"), ("ANNA", "well"), ("ANNA", "yes")]),
        (["[music]", "<i>Anna:</i> Hi", "no"], [("Anna", "Hi"), ("", "no")]),
        (["[SPEAKER_00]: Hi"], [("SPEAKER_00", "Hi")]),
        (["Anna: Hi\nyou\nBob: Ho"], [("Anna", "Hi you"), ("Bob", "Ho")]),
        (["Hi", "My point: no"], [("", "Hi"), ("", "My point: no")]),
        (["- Hi.\n- Hello.\nyou"], [("", "Hi."), ("", "Hello. you")]),
        (["-Hi.\n-Hello."], [("", "Hi."), ("", "Hello.")]),
        (["- Anna: Hi.\n- Bob: Ho."], [("Anna", "Hi."), ("Bob", "Ho.")]),
        (["- Hi.\nthere", "-5\n-6"], [("", "- Hi. there"), ("", "-5 -6")]),
        ([">> Hi. >> Hello.", ">>> ANNA: News"], [("", "Hi."), ("", "Hello."), ("", "ANNA: News")]),
        ([">> ANNA: Hi\n>> BOB: Ho"], [("ANNA", "Hi"), ("BOB", "Ho")]),
        (["1 >> 0 is true"], [("", "1 >> 0 is true")]),
        (["Hi\n\n \nthere"], [("", "Hi there")]),
        (["I <3 you & {me}"], [("", "I <3 you & {me}")]),
        (["one<br/>two"], [("", "one two")]),
        (["", "<i> </i>", "Hi"], [("", "Hi")]),
    ],
)
def test_who_says_what(tmp_path: Path, texts: list[str], expected: list[tuple[str, str]]) -> None:
    assert spoken(tmp_path, *texts) == expected


@pytest.mark.parametrize(
    "sound",
    ["[music]", "(laughs)", "♪ la la ♪", "♪ la", "♪", "[a] (b) ♪♪ c ♪♪ ...", "（拍手）", "- [door]\n- [dog]"],
)
def test_sounds_alone_are_left_out(tmp_path: Path, sound: str) -> None:
    assert spoken(tmp_path, sound, "Hi") == [("", "Hi")]


@pytest.mark.parametrize(
    "said", ["(whispers) Hi", "♪ la ♪ Hi", "...", "?!", "[a", "Hi [laughs]", "♪" * 999 + "a♪b"]
)
def test_what_is_more_than_a_sound_stays(tmp_path: Path, said: str) -> None:
    assert spoken(tmp_path, said, "x") == [("", said), ("", "x")]
    assert spoken(tmp_path, "Anna: (laughs)") == [("Anna", "(laughs)")]


def test_a_file_of_sounds_has_no_utterances(tmp_path: Path) -> None:
    assert "no utterances" in complaint(tmp_path, "a.srt", srt("[music]"))
    assert "no utterances" in complaint(tmp_path, "a.vtt", "WEBVTT\n")
    assert "no utterances" in complaint(tmp_path, "a.ass", "[Events]\n")


def test_times_may_overlap_and_are_put_in_order(tmp_path: Path) -> None:
    cues = ["00:05,000 --> 00:06,000\nc", "0:0:1.5-->0:0:9\na", "00:00:01,50 --> 00:00:02\nb"]
    (conversation,) = read(tmp_path, "a.srt", "\n\n".join(cues))
    assert timed(conversation) == [(1500, 9000, "", "a"), (1500, 2000, "", "b"), (5000, 6000, "", "c")]


def test_cues_without_text_and_without_blank_lines(tmp_path: Path) -> None:
    content = "1\n00:01,0 --> 00:02,0\n\n2\n00:03,0 --> 00:04,0\na\n3\n00:05,0 --> 00:06,0\n42\n\n"
    assert [u.text for u in read(tmp_path, "a.srt", content)[0]] == ["a", "42"]
    content = "WEBVTT\n00:01.0 --> 00:02.0\na\n00:03.0 --> 00:04.0\n\nid\n00:05.0 --> 00:06.0\n \nb"
    assert [u.text for u in read(tmp_path, "a.vtt", content)[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("00:00:03,000 -> 00:00:04,000", "expected times such as 00:01:02,500 --> 00:01:04,000"),
        ("00:00:03,000 – 00:00:04,000", "expected times"),
        ("00:00:03,000 --> 00:00:04,0x", "expected times"),
        ("00:00:03,000 -->", "expected times"),
        ("--> 00:00:04,000", "expected times"),
        ("-00:00:03,000 --> 00:00:04,000", "not '-00:00:03,000"),
        ("00:61:03,000 --> 00:00:04,000", "expected times"),
        ("nan --> nan", "expected times"),
        (f"{'9' * 5000}:00:03,000 --> 00:00:04,000", "expected times"),
        ("00:00:03,000 --> 00:00:02,000", "it ends at 2000 ms, before it starts at 3000 ms"),
    ],
)
def test_broken_times_are_named(tmp_path: Path, line: str, part: str) -> None:
    for name, begin in [("a.srt", "1\n"), ("a.vtt", "WEBVTT\n\n1\n")]:
        content = f"{begin}00:01.000 --> 00:02.000\nHi\n\n{line}\nHo\n"
        text = complaint(tmp_path, name, content)
        assert f"line {begin.count(chr(10)) + 4}: " in text
        assert part in text
        assert len(text) < 300


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.srt", "Hello\n", "line 1: 'Hello' has no time line"),
        ("a.srt", "1\n00:01,0 --> 00:02,0\nHi\n\n2\nHo\n", "line 5: '2' has no time line"),
        ("a.srt", "1\n00:01,0 --> 00:02,0\nHi\n\n2\n", "line 5: '2' has no time line"),
        ("a.vtt", "1\n00:01.0 --> 00:02.0\nHi\n", "line 1: a .vtt file begins with WEBVTT"),
        ("a.vtt", "WEBVTT\n\n00:01.0 --> 00:02.0\nHi\n\nlost\n", "line 6: 'lost' has no time line"),
        ("a.vtt", "WEBVTT\n\nlost\n\n00:01.0 --> 00:02.0\nHi", "line 3: 'lost' has no time line"),
        (
            "a.ass",
            "[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,Hi",
            "line 2: expected the fields layer, start",
        ),
        ("a.ass", "[Events]\nFormat: Text\nDialogue: Hi", "line 3: expected the fields text"),
        ("a.ass", "[Events]\nDialogue: 0,soon,0:00:02.00,,,0,0,0,,Hi", "line 2: expected times"),
        ("a.ass", "[Events]\nDialogue: 0,0:00:03.00,0:00:02.00,,,0,0,0,,Hi", "line 2: it ends at 2000 ms"),
        ("a.ass", "[Events]\nDialog: 0,0:00:03.00", "line 2: expected Dialogue or Comment"),
    ],
)
def test_nothing_is_dropped_silently(tmp_path: Path, name: str, content: str, part: str) -> None:
    assert part in complaint(tmp_path, name, content)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_of_subtitles(tmp_path: Path, encoding: str) -> None:
    assert spoken(tmp_path, "Zoë 😀") == [("", "Zoë 😀")]
    assert turns(read(tmp_path, "a.srt", srt("Zoë 😀").encode(encoding))[0]) == [("", "Zoë 😀")]
    assert "line 3) is not utf-8" in complaint(tmp_path, "a.srt", srt("Zoë").encode("cp1252"))


def test_ten_thousand_cues_are_read_fast(tmp_path: Path) -> None:
    seconds = [f"{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}" for i in range(10_000)]
    content = "".join(
        f"{i}\n{s},000 --> {s},900\n{'Anna' if i % 2 else 'Bob'}: this is <i>cue</i>\nnumber {i}\n\n"
        for i, s in enumerate(seconds)
    )
    began = time.process_time()
    (conversation,) = read(tmp_path, "a.srt", content)
    assert time.process_time() - began < 2
    assert timed(conversation)[9999] == (9_999_000, 9_999_900, "Anna", "this is cue number 9999")
