"""Every reader: what a small writer wrote is read back; junk and broken files are read or refused."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transcript_files import one_folder, read

from mmerc.errors import ConversationError


class Said(NamedTuple):
    start: int  # milliseconds
    end: int
    speaker: str
    words: list[str]


def clock(ms: int, mark: str = ".", digits: int = 3) -> str:
    seconds = ms // 1000
    part = f"{ms % 1000:03}"[:digits]
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{mark}{part}"


def srt(said: list[Said]) -> str:
    return "".join(
        f"{i}\n{clock(s.start, ',')} --> {clock(s.end, ',')}\n{s.speaker}: " + "\n".join(s.words) + "\n\n"
        for i, s in enumerate(said, 1)
    )


def vtt(said: list[Said]) -> str:
    cues = (
        f"{clock(s.start)} --> {clock(s.end)} line:0\n<v.a {s.speaker}>" + escape("\n".join(s.words))
        for s in said
    )
    return "\n\n".join(["WEBVTT", "NOTE x", *cues])


def ass(said: list[Said]) -> str:
    lines = (
        f"Dialogue: 0,{clock(s.start, digits=2)},{clock(s.end, digits=2)},,{s.speaker},0,0,0,,"
        + r"\N".join(s.words)
        for s in said
    )
    return "\n".join(["[Script Info]", "[Events]", *lines])


def whisper(said: list[Said]) -> str:
    segments = [
        {"start": s.start / 1000, "end": s.end / 1000, "text": " " + " ".join(s.words), "speaker": s.speaker}
        for s in said
    ]
    return json.dumps({"segments": segments}, indent=1)


def tiers(said: list[Said]) -> dict[str, list[Said]]:
    return {
        speaker: [s for s in said if s.speaker == speaker] for speaker in sorted({s.speaker for s in said})
    }


def eaf(said: list[Said]) -> str:
    slots, spoken = "", ""
    for speaker, own in tiers(said).items():
        spoken += f"\n<TIER TIER_ID={quoteattr(speaker)}>"
        for i, s in enumerate(own):
            key = f"{speaker}{i}"
            slots += f'<TIME_SLOT TIME_SLOT_ID="{key}a" TIME_VALUE="{s.start}"/>\n'
            slots += f'<TIME_SLOT TIME_SLOT_ID="{key}b" TIME_VALUE="{s.end}"/>\n'
            spoken += (
                f'<ANNOTATION>\n<ALIGNABLE_ANNOTATION TIME_SLOT_REF1="{key}a" TIME_SLOT_REF2="{key}b" '
                f'ANNOTATION_ID="{key}">\n<ANNOTATION_VALUE>{escape(" ".join(s.words))}</ANNOTATION_VALUE>\n'
                "</ALIGNABLE_ANNOTATION></ANNOTATION>\n"
            )
        spoken += "</TIER>"
    return f"<ANNOTATION_DOCUMENT>\n<TIME_ORDER>{slots}</TIME_ORDER>{spoken}\n</ANNOTATION_DOCUMENT>"


def textgrid(said: list[Said]) -> str:
    grouped = tiers(said)
    text = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 9\ntiers? <exists>\n'
    text += f"size = {len(grouped)}\nitem []:\n"
    for speaker, own in grouped.items():
        text += f' item [1]:\n class = "IntervalTier"\n name = "{speaker}"\n xmin = 0\n xmax = 9\n'
        text += f" intervals: size = {len(own)}\n"
        for s in own:
            words = "\n".join(s.words).replace('"', '""')
            text += f' intervals [1]:\n xmin = {s.start / 1000}\n xmax = {s.end / 1000}\n text = "{words}"\n'
    return text


WRITERS: dict[str, Callable[[list[Said]], str]] = {
    "srt": srt,
    "vtt": vtt,
    "ass": ass,
    "json": whisper,
    "eaf": eaf,
    "TextGrid": textgrid,
}

speakers = st.sampled_from(["Anna", "Zoë", "Dr. Green", "SPEAKER_00", "张伟"])
words = st.text(st.sampled_from("aZß好😀1?!.,'\"&$%-"), min_size=1, max_size=6)
moments = st.integers(0, 10**6).map(lambda n: 10 * n)


@st.composite
def utterances(draw: st.DrawFn) -> Said:
    start = draw(moments)
    end = start + draw(moments)
    return Said(start, end, draw(speakers), ["a" + draw(words), *draw(st.lists(words, max_size=2).map(safe))])


def safe(found: list[str]) -> list[str]:
    """No word begins a line with a dash, or is alone on one as a number: these are marks."""
    return ["b" + word for word in found]


dialogues = st.lists(utterances(), min_size=1, max_size=5)


@pytest.mark.parametrize("suffix", WRITERS)
@settings(one_folder, max_examples=40)
@given(dialogues)
def test_round_trip(tmp_path: Path, suffix: str, said: list[Said]) -> None:
    (conversation,) = read(tmp_path, f"a.{suffix}", WRITERS[suffix](said))
    found = [(u.start_ms, u.end_ms, u.speaker, u.text) for u in conversation]
    expected = [(s.start, s.end, s.speaker, " ".join(s.words)) for s in sorted(said, key=lambda s: s.start)]
    if suffix in ("eaf", "TextGrid"):  # what begins at the same time is in order of the tiers
        found, expected = sorted(found), sorted(expected)
    assert found == expected


def read_or_refused(folder: Path, suffix: str, content: str | bytes) -> None:
    try:
        conversations = read(folder, f"junk.{suffix}", content)
    except ConversationError:
        return
    for conversation in conversations:
        assert len(conversation)
        for u in conversation:
            times = [time for time in (u.start_ms, u.end_ms) if time is not None]
            assert times == sorted(times)
            assert all(0 <= time < math.inf for time in times)


def broken(draw: st.DrawFn, lines: list[str]) -> list[str]:
    """Return the lines after one accident."""
    first, second = (draw(st.integers(0, len(lines))) for _ in range(2))
    low, high = sorted((first, second))
    return draw(
        st.sampled_from(
            [
                lines[:low],
                lines[low:],
                lines[:low] + lines[high:],
                lines[:high] + lines[low:],
                lines[:low] + lines[low:high][::-1] + lines[high:],
                [line.replace("0", "-", 1) if i == low else line for i, line in enumerate(lines)],
                [line[: len(line) // 2] if i == low else line for i, line in enumerate(lines)],
            ]
        )
    )


@pytest.mark.parametrize("suffix", WRITERS)
@settings(one_folder, max_examples=50)
@given(dialogues, st.data())
def test_broken_files_are_read_or_refused(
    tmp_path: Path, suffix: str, said: list[Said], data: st.DataObject
) -> None:
    lines = WRITERS[suffix](said).split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        lines = data.draw(st.composite(broken)(lines))
    read_or_refused(tmp_path, suffix, "\n".join(lines))


pieces = st.lists(
    st.sampled_from(
        [
            *"\n\n\n\r\0 :.,-–>[](){}<>/&;\"'♪!a1é",
            *(
                "00:00:01,000 --> 00:00:02,000\n",
                "00:01.0 --> 00:02.0\n",
                "-->",
                ">> ",
                "WEBVTT\n\n",
                "NOTE\n",
                "1\n",
            ),
            *(
                "<v Anna>",
                "</v>",
                "{\\an8}",
                "&amp;",
                "Anna: ",
                "- ",
                "[music]",
                "99:99:99,9",
                "<i>",
                "&#x110000;",
            ),
            *("[Events]\n", "Format: Start, End, Text\n", "Dialogue: ", "0:00:01.00,", "\\N", "{\\p1}"),
            *(
                '"ooTextFile" "TextGrid" 0 1 <exists> ',
                "2\n",
                '"IntervalTier" ',
                '"Anna" ',
                "0 1 ",
                "1e999 ",
                '""',
            ),
            *(
                "<ANNOTATION_DOCUMENT>",
                "</ANNOTATION_DOCUMENT>",
                '<TIER TIER_ID="a">',
                "</TIER>",
                "<a/>",
                "<!DOCTYPE",
            ),
        ]
    ),
    max_size=25,
).map("".join)
begun = st.tuples(st.sampled_from(["", "WEBVTT\n\n", "[Events]\n", "<ANNOTATION_DOCUMENT>"]), pieces).map(
    "".join
)


@pytest.mark.parametrize("suffix", WRITERS)
@settings(one_folder, max_examples=50)
@given(
    begun | st.text(max_size=40).map(lambda t: t.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)
)
@example("\n" * 20_000 + "♪" * 20_000)
@example("WEBVTT\n\n" + "<v " * 20_000 + ">> " * 20_000)
@example("WEBVTT\n\n00:01.0 --> 00:02.0\n<v" + " " * 100_000)
@example(f'"ooTextFile" "TextGrid" 0 1 <exists> 1 "IntervalTier" "{"_" * 99_999}a" 0 1 1 0 1 "a"')
@example("(" * 50_000)
def test_junk_is_read_or_refused(tmp_path: Path, suffix: str, content: str | bytes) -> None:
    read_or_refused(tmp_path, suffix, content)


scalars = st.none() | st.booleans() | st.integers(-5, 10**30) | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.just("from"), v), max_leaves=4
)
timed_word = st.fixed_dictionaries(
    {"word": st.text(max_size=3) | values},
    optional={
        "speaker": st.sampled_from(["A", "B", 1]) | values,
        "start": st.floats(0, 9),
        "end": st.floats(0, 9),
    },
)
segments = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text(max_size=8) | values,
        "start": st.floats(0, 9) | values,
        "end": st.floats(9, 20) | values,
        "speaker": values,
        "words": st.lists(timed_word, max_size=4) | values,
        "offsets": values,
    },
)


@settings(one_folder, max_examples=100)
@given(st.lists(segments | values, max_size=3), st.sampled_from(["segments", "transcription"]))
@example([{"text": "a", "start": 10**4000}], "segments")
def test_segments_of_anything(tmp_path: Path, found: list[object], key: str) -> None:
    read_or_refused(tmp_path, "json", json.dumps({key: found}))
    read_or_refused(tmp_path, "jsonl", json.dumps({key: found}))


def test_deep_json_is_refused(tmp_path: Path) -> None:
    for deep in ("[" * 100_000, '{"segments":' * 100_000, '{"segments": [{"words": ' + "[" * 9999):
        read_or_refused(tmp_path, "json", deep)
