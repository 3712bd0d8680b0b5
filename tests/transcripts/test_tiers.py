"""ELAN and Praat."""

import time
from pathlib import Path

import pytest
from transcript_files import complaint, read, timed, turns

EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0" VERSION="3.0">
    <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"/>
    <TIME_ORDER>
        <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="0"/>
        <TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="1000"/>
        <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="1500"/>
        <TIME_SLOT TIME_SLOT_ID="ts4"/>
    </TIME_ORDER>
    <TIER LINGUISTIC_TYPE_REF="words" PARENT_REF="Anna" TIER_ID="Anna-words">
        <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="w1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts4">
            <ANNOTATION_VALUE>Hi</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="default" PARTICIPANT="Bob Lee" TIER_ID="B">
        <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="b1" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
            <ANNOTATION_VALUE>Tom &amp; me</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="default" TIER_ID="Anna">
        <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
            <ANNOTATION_VALUE>Hi
 there</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
        <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
            <ANNOTATION_VALUE> </ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="codes" PARENT_REF="Anna" TIER_ID="Anna-code">
        <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="c1" ANNOTATION_REF="a1">
            <ANNOTATION_VALUE>7</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
    </TIER>
    <TIER LINGUISTIC_TYPE_REF="emotion" PARENT_REF="Anna-code" TIER_ID="feels">
        <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="e1" ANNOTATION_REF="c1">
            <ANNOTATION_VALUE>joy</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
    </TIER>
</ANNOTATION_DOCUMENT>
"""

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = 4
item []:
    item [1]:
        class = "IntervalTier"
        name = "Anna"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 1.25
            text = "She said ""Hi"" ! 5 <exists>
 twice"
        intervals [2]:
            xmin = 1.25
            xmax = 2
            text = ""
        intervals [3]:
            xmin = 2
            xmax = 3
            text = "Bye"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 3
        points: size = 1
        points [1]:
            number = 0.5
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "Bob"
        xmin = 0
        xmax = 3
        intervals: size = 1
        intervals [1]:
            xmin = 1
            xmax = 2.5
            text = "Zoë 你好"
    item [4]:
        class = "IntervalTier"
        name = "Anna-emotion"
        xmin = 0
        xmax = 3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 2.2
            text = "joy"
        intervals [2]:
            xmin = 2.2
            xmax = 3
            text = "anger"
"""

SHORT = """File type = "ooTextFile short"
"TextGrid"

0
3
<exists>
4
"IntervalTier" ! what Anna says
"Anna"
0
3
3
0
1.25
"She said ""Hi"" ! 5 <exists>
 twice"
1.25
2
""
2
3
"Bye"
"TextTier"
"clicks"
0
3
1
0.5
"click"
"IntervalTier"
"Bob"
0
3
1
1
2.5
"Zoë 你好"
"IntervalTier"
"Anna-emotion"
0
3
2
0
2.2
"joy"
2.2
3
"anger"
"""


def grid(**tiers: list[tuple[float, float, str]]) -> str:
    lines = ['"ooTextFile"', '"TextGrid"', "0 9 <exists>", str(len(tiers))]
    for name, intervals in tiers.items():
        lines += ['"IntervalTier"', f'"{name}"', "0 9", str(len(intervals))]
        lines += [f'{start} {end} "{text}"' for start, end, text in intervals]
    return "\n".join(lines)


def test_elan(tmp_path: Path) -> None:
    for name, content in [
        ("talk.eaf", EAF.encode()),
        ("talk.EAF", EAF.replace("UTF-8", "UTF-16").encode("utf-16")),
    ]:
        (conversation,) = read(tmp_path, name, content)
        assert conversation.id == "talk"
        assert timed(conversation) == [(0, 1000, "Anna", "Hi there"), (1000, 1500, "Bob Lee", "Tom & me")]
        assert [u.label for u in conversation] == ["joy", None]


@pytest.mark.parametrize("content", [LONG.replace("\n", " \r\n"), SHORT])  # Praat ends lines with a blank
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_textgrid(tmp_path: Path, content: str, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (conversation,) = read(tmp_path, "talk.TextGrid", (mark + content).encode(encoding))
    assert timed(conversation) == [
        (0, 1250, "Anna", 'She said "Hi" ! 5 <exists> twice'),
        (1000, 2500, "Bob", "Zoë 你好"),
        (2000, 3000, "Anna", "Bye"),
    ]
    assert [u.label for u in conversation] == ["joy", None, "anger"]


def test_textgrid_in_latin_1_is_refused(tmp_path: Path) -> None:
    content = SHORT.replace("你好", "").encode("latin-1")
    assert "(0xeb, line 37) is not utf-8" in complaint(tmp_path, "a.TextGrid", content)


@pytest.mark.parametrize(
    "name", ["emotion", "Anna-emotion", "Labels_Anna", "emotion @ anna", "Anna: Emotions"]
)
def test_labels_by_time(tmp_path: Path, name: str) -> None:
    said = [(0, 2, "a"), (2, 3, "b"), (3, 4, "c"), (5, 6, "d")]
    labels = [(0, 2.1, "joy"), (2.4, 2.6, "fear"), (3.9, 4.9, "anger")]
    for order in (1, -1):
        tiers = dict([("Anna", said), (name, labels)][::order])
        (conversation,) = read(tmp_path, "a.TextGrid", grid(**tiers))
        assert [u.label for u in conversation] == ["joy", "fear", None, None]


def test_labels_of_one_and_of_all(tmp_path: Path) -> None:
    both = {"Anna": [(0, 1, "a")], "Bob": [(0, 1, "b")]}
    (conversation,) = read(tmp_path, "a.TextGrid", grid(**both, emotion=[(0, 1, "joy")]))
    assert [u.label for u in conversation] == ["joy", "joy"]
    (conversation,) = read(tmp_path, "a.TextGrid", grid(**both, **{"Bob.label": [(0, 1, "joy")]}))
    assert [u.label for u in conversation] == [None, "joy"]
    text = complaint(tmp_path, "a.TextGrid", grid(**both, **{"Zoe-label": [(0, 1, "joy")]}))
    assert "holds labels of 'Zoe', but no tier has that name; there is 'Anna', 'Bob'" in text
    assert "only labels" in complaint(tmp_path, "a.TextGrid", grid(emotion=[(0, 1, "joy")]))


def test_emotional_is_a_name(tmp_path: Path) -> None:
    assert turns(read(tmp_path, "a.TextGrid", grid(emotional=[(0, 1, "a")]))[0]) == [("emotional", "a")]


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("", "", ["ends where", "cut off"]),
        ('"anger"', '"anger', ["line 48", 'no " at its end']),
        ('"Bye"', '"Bye', ["line 23", "expected IntervalTier"]),
        ("2.5\n", "0.5\n", ["tier 'Bob', interval 1 (line 35)", "ends at 500 ms", "1000 ms"]),
        ("1\n2.5\n", "-1\n2.5\n", ["tier 'Bob', interval 1 (line 35)", "'-1'"]),
        ("1\n2.5\n", "1e999\n2.5\n", ["tier 'Bob', interval 1 (line 35)", "'1e999'"]),
        ("1\n2.5\n", "--undefined--\n2.5\n", ["tier 'Bob', interval 1 (line 35)", "'--undefined--'"]),
        ("1\n2.5\n", "1 nan\n", ["line 36", "expected an end", "'Zoë 你好'"]),
        ('"TextTier"', '"PointTier"', ["line 23", "'PointTier'"]),
        ("<exists>\n4", "<exists>\n4.5", ["line 7", "the number of tiers"]),
        ("<exists>\n4", f"<exists>\n{'4' * 5000}", ["line 7", "the number of tiers"]),
        ('"TextGrid"', '"Sound"', ["line 1", "not a TextGrid"]),
    ],
)
def test_broken_textgrids(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    content = SHORT.replace(old, new, 1) if old else SHORT[: SHORT.index("2.2\n3")]
    text = complaint(tmp_path, "a.TextGrid", content)
    assert all(part in text for part in parts), text


def test_textgrid_without_tiers(tmp_path: Path) -> None:
    text = '"ooTextFile" "TextGrid" 0 1 <absent>'
    assert "no utterances" in complaint(tmp_path, "a.TextGrid", text)
    assert "no utterances" in complaint(tmp_path, "a.TextGrid", grid(Anna=[(0, 1, "")]))


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('TIME_VALUE="1000"', 'TIME_VALUE="-3"', ["annotation 'b1'", "'-3'"]),
        ('TIME_VALUE="1000"', 'TIME_VALUE="nan"', ["annotation 'b1'", "'nan'"]),
        ('TIME_VALUE="1000"', 'TIME_VALUE="9000"', ["annotation 'b1'", "ends at 1500 ms"]),
        ('TIME_VALUE="1000"', "", ["annotation 'b1'", "align it"]),
        ('TIME_SLOT_REF2="ts3"', "", ["annotation 'b1'", "align it"]),
        ('ANNOTATION_REF="c1"', 'ANNOTATION_REF="nil"', ["tier 'feels', annotation 'e1'", "no time"]),
        (
            'ANNOTATION_REF="a1"',
            'ANNOTATION_REF="e1"',
            ["tier 'feels', annotation 'e1'", "depends on itself"],
        ),
        (
            'PARENT_REF="Anna" TIER_ID="Anna-code"',
            'PARENT_REF="feels" TIER_ID="Anna-code"',
            ["depends on itself"],
        ),
        ("milliseconds", "PAL-frames", ["PAL-frames"]),
        ("ANNOTATION_DOCUMENT", "HTML", ["root", "HTML"]),
        ("</ANNOTATION_DOCUMENT>", "", ["not XML"]),
    ],
)
def test_broken_elan_files(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    assert old in EAF
    text = complaint(tmp_path, "a.eaf", EAF.replace(old, new))
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE d [<!ENTITY a "' + "x" * 100 + '"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE d [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE d SYSTEM "http://example.org/d.dtd">',
    ],
)
def test_documents_that_declare_entities_are_refused(tmp_path: Path, declaration: str) -> None:
    content = EAF.replace("<ANNOTATION_DOCUMENT ", f"{declaration}\n<ANNOTATION_DOCUMENT ").replace(
        "Tom", "&b;"
    )
    assert "DOCTYPE" in complaint(tmp_path, "a.eaf", content)
    assert "DOCTYPE" in complaint(tmp_path, "a.eaf", content.encode("utf-16"))
    assert "undefined entity" in complaint(tmp_path, "a.eaf", EAF.replace("Tom", "&b;"))


def test_deep_xml_is_no_matter(tmp_path: Path) -> None:
    complaint(tmp_path, "a.eaf", "<a>" * 200_000)
    complaint(
        tmp_path, "a.eaf", f"<ANNOTATION_DOCUMENT>{'<a>' * 100_000}{'</a>' * 100_000}</ANNOTATION_DOCUMENT>"
    )


def test_many_annotations_are_read_fast(tmp_path: Path) -> None:
    said = [(i, i + 0.9, f"utterance {i}") for i in range(5000)]
    began = time.process_time()
    (conversation,) = read(
        tmp_path, "a.TextGrid", grid(Anna=said, emotion=[(s, e, "joy") for s, e, _ in said])
    )
    assert time.process_time() - began < 2
    assert {u.label for u in conversation} == {"joy"}
    assert len(conversation) == 5000
