import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from conversations import MELD, MODALITIES, WHEN, made_up
from mmerc.conversation import Coverage
from mmerc.errors import ConversationError, MediaError
from mmerc.explanation import Explanation
from mmerc.report import render_report, write_report
from mmerc.report.turns import percent

VOID = {"meta", "input", "img", "br", "link", "hr"}
NASTY = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"'><b onclick=alert(3)>",
    "{{ 7 * 6 }} {% raw %}",
    "</style><style>*{display:none}",
    "javascript:alert(4)",
    "&lt;&amp;",
    "\x00\x1b",
    "\ud800",
)


class Page(HTMLParser):
    """Reads a page, and demands that every element is closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and wanted.items() <= a.items()]


def page(*explanations: Explanation, **options: object) -> Page:
    return Page(render_report(explanations or [made_up()], generated=WHEN, **options))


def turns(found: Page) -> list[dict[str, str]]:
    return [a for a in found.all("li") if a.get("class", "").startswith("turn ")]


def test_every_turn_and_number_is_in_it() -> None:
    explanation = made_up(40, texts=[f"this is text {k}." for k in range(40)])
    html = render_report([explanation], model="df-erc, trained on trains", generated=WHEN)
    found = Page(html)
    rows = html.split('<li class="turn ')[1:]
    assert len(rows) == 40 == len(turns(found))
    for k, ((utterance, emotion), row) in enumerate(zip(explanation.prediction, rows, strict=True)):
        assert utterance.text in row
        assert utterance.speaker in row
        assert percent(emotion.confidence) in row.replace("&lt;", "<").replace("&gt;", ">")
        for share in emotion.probabilities.values():
            assert f"{100 * share:.1f}\xa0%" in row
        assert ("uncertain" in row) == (emotion.confidence < 0.5)
        assert ("missing</dd>" in row) == (k % 5 == 4)
        for influence in explanation.influences[k]:
            assert f'href="#c0t{influence.turn}"' in row
            assert f"{abs(100 * influence.change):.1f}"[:3] in row or abs(influence.change) > 0.0995
    for said in (
        "df-erc, trained on trains",
        "2026-01-02 03:04",
        "40 turns by 2 speakers in 1:59",
        "no face",
    ):
        assert said in found.text
    assert "A label is not a feeling." in found.text


def test_nothing_comes_from_outside() -> None:
    html = render_report([made_up(9)], generated=WHEN)
    for _, attributes in Page(html).elements:
        for name in ("src", "href", "action", "data", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
        assert not {"style", "onclick", "onload", "onerror"} & attributes.keys()
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)|@import|//cdn", html)


def test_the_policy_admits_this_style_and_this_script_only() -> None:
    html = render_report([made_up()], generated=WHEN)
    (policy,) = (a["content"] for a in Page(html).all("meta", **{"http-equiv": "Content-Security-Policy"}))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert "media-src" not in rules
    for element in ("style", "script"):
        (content,) = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{element}-src"] == f"'sha256-{digest}'"


def test_the_same_input_gives_the_same_page() -> None:
    one, other = (render_report([made_up(12)], generated=WHEN) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("nasty", NASTY)
def test_texts_and_names_stay_text(nasty: str, tmp_path: Path) -> None:
    plain = page(made_up(3))
    explanation = made_up(3, texts=[nasty], speakers=(nasty, "Ben"), labels=("joy", nasty), name=nasty)
    used = {nasty: Coverage(0, nasty)}
    explanation = replace(explanation, prediction=replace(explanation.prediction, modalities=used))
    write_report(tmp_path / "r.html", [explanation], title=nasty, model=nasty, generated=WHEN)
    found = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in found.elements} <= {tag for tag, _ in plain.elements}
    for tag in ("script", "style", "img", "b"):
        assert len(found.all(tag)) <= len(plain.all(tag)) + (9 if tag == "b" else 0)
    assert {name for _, a in found.elements for name in a} <= {
        *(name for _, a in plain.elements for name in a), "data-low",
    }  # fmt: skip
    shown = nasty.replace("\ud800", "?").replace("\x00", "\ufffd")
    assert re.sub(r"\s+", " ", shown) in found.text.replace("\x00", "\ufffd")


@pytest.mark.parametrize(
    "explanation",
    [
        made_up(1),
        made_up(2, speakers=()),
        made_up(6, timed=False),
        made_up(6, modalities=()),
        made_up(6, influences=0),
        made_up(30, labels=("yes", "no")),
        made_up(30, labels=[f"label {k}" for k in range(12)]),
        made_up(4, texts=["", "قال إنه سيأتي غدًا", "電車が遅れた", "late " * 5000]),
    ],
    ids=["one", "nobody", "untimed", "plain", "unexplained", "two", "twelve", "texts"],
)
def test_any_conversation(explanation: Explanation) -> None:
    found = page(explanation)
    assert len(turns(found)) == len(explanation.prediction)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in found.elements:
        for name in ("aria-labelledby", "href"):
            target = attributes.get(name, "").removeprefix("#")
            assert not target or target in ids


def test_what_a_model_has_not_is_not_shown() -> None:
    text = page(made_up(6, modalities=(), influences=0)).text.split("How to read this")[0]
    for word in ("missing", "context", "moved by", "What the model had to go by"):
        assert word not in text
    assert "hardly moved" not in text


def test_sizes() -> None:
    long = ["Something that people say in a meeting, of an ordinary length, I would say."]
    meeting = render_report([made_up(200, texts=long, influences=5)], generated=WHEN)
    assert len(meeting.encode()) < 1_500_000


def test_a_thousand_turns() -> None:
    html = render_report([made_up(1000, speakers=[f"P{k}" for k in range(30)])], generated=WHEN)
    assert html.count('<li class="turn ') == html.count('<a class="bar ') == 1000


def test_several_conversations() -> None:
    found = page(made_up(3, name="first"), made_up(4, name="second"))
    assert len(turns(found)) == 7
    assert [a["href"] for a in found.all("a") if a["href"] in ("#c0", "#c1")] == ["#c0", "#c1"]
    with pytest.raises(ConversationError, match="at least one conversation"):
        render_report([])


def test_annotations_are_compared() -> None:
    explanation = made_up(2)
    prediction = explanation.prediction
    first, second = prediction.conversation.utterances
    wrong = next(label for label in MELD if label != prediction.emotions[1].label)
    labelled = (replace(first, label=prediction.emotions[0].label), replace(second, label=wrong))
    conversation = replace(prediction.conversation, utterances=labelled)
    text = page(replace(explanation, prediction=replace(prediction, conversation=conversation))).text
    assert "1 of 2 agree with the annotation" in text
    assert f"annotated: {wrong} ✗" in text


# The recording


def test_the_recording_is_referred_to(tmp_path: Path) -> None:
    media = tmp_path / "media" / "our talk #1.mp3"
    media.parent.mkdir()
    media.write_bytes(b"x")
    write_report(tmp_path / "out" / "r.html", [made_up(2)], media=media, generated=WHEN)
    html = (tmp_path / "out" / "r.html").read_text(encoding="utf-8")
    found = Page(html)
    assert found.all("audio")[0]["src"] == "./../media/our%20talk%20%231.mp3"
    links = found.all("a", **{"class": "play"})
    assert [a["href"].split("#")[1] for a in links] == ["t=0,2.5", "t=3,5.5"]
    assert "media-src 'self' file:" in html.replace("&#39;", "'")
    assert str(tmp_path) not in html
    assert str(tmp_path) in render_report([made_up(2)], media=media)


def test_a_small_recording_can_be_embedded(tmp_path: Path) -> None:
    media = tmp_path / "talk.wav"
    media.write_bytes(b"RIFF")
    found = page(made_up(2), media=media, embed=True)
    assert found.all("audio")[0]["src"].startswith("data:audio/")
    assert {a["href"] for a in found.all("a", **{"class": "play"})} == {"#player"}
    with media.open("wb") as file:
        file.truncate(9 * 2**20)
    with pytest.raises(MediaError, match=r"9\.0 MiB, a report takes in up to 8 MiB"):
        render_report([made_up(2)], media=media, embed=True)


def test_a_recording_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        render_report([made_up(2)], media=tmp_path / "gone.mp4")
    (tmp_path / "talk.mp3").write_bytes(b"x")
    with pytest.raises(ConversationError, match="one recording, there are 2 conversations"):
        render_report([made_up(2), made_up(3)], media=tmp_path / "talk.mp3")
    untimed = page(made_up(2, timed=False), media=tmp_path / "talk.mp3")
    assert "The transcript has no times" in untimed.text


def test_small_pictures_of_a_video(recording: Path) -> None:
    explanation = made_up(10)  # longer than the recording: 28.5 s and 23 s
    html = render_report([explanation], media=recording, generated=WHEN)
    pictures = Page(html).all("img")
    assert len(pictures) == 8
    for picture in pictures:
        assert picture["alt"].startswith("The picture at 0:")
        assert base64.b64decode(picture["src"].removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8"
        assert len(picture["src"]) < 8000
    assert not page(explanation, media=recording, thumbnails=False).all("img")
    assert MODALITIES[0] in html
