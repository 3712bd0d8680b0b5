"""Predictions as one HTML file that needs no network and runs nothing but its own script."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from mmerc.conversation import Prediction
from mmerc.errors import ConversationError
from mmerc.explanation import Explanation
from mmerc.report.answers import Answers, Voice, count_answers, voices
from mmerc.report.palette import colours_css, looks_of, stacking
from mmerc.report.recording import Recording, find_recording
from mmerc.report.timeline import LANE, TOP, Timeline, clock, draw, spans_ms
from mmerc.report.turns import Turn, percent, rows
from mmerc.storage import write_text

TITLE = "Emotions in conversation"
WIDE, NARROW = 6, 13  # pixels that a turn has in the timeline, at least, on screens and on telephones


@dataclass(frozen=True, slots=True)
class Modality:
    """What the model reads, and in how many turns it was there."""

    name: str
    present: int
    share: float  # percents
    absent: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """One conversation of the report."""

    id: str
    name: str
    turns: list[Turn]
    speakers: int
    length: str  # "" where the times are not known
    modalities: list[Modality]
    timeline: Timeline
    answers: Answers
    voices: list[Voice]
    counts: list[tuple[int, int]]  # label and its turns, most first
    low: int
    agreed: tuple[int, int] | None  # turns with the annotated emotion, annotated turns
    recording: Recording | None

    @property
    def explained(self) -> bool:
        """Whether it is known which turns moved which."""
        return any(turn.moved for turn in self.turns)

    @property
    def weighed(self) -> bool:
        """Whether it is known how much modalities or context counted."""
        return any(turn.sources or turn.context for turn in self.turns)


def render_report(
    explanations: Sequence[Explanation],
    *,
    media: str | Path | None = None,
    title: str = TITLE,
    model: str = "",
    generated: datetime | None = None,
    folder: Path | None = None,
    thumbnails: bool = True,
    embed: bool = False,
) -> str:
    """Return a report as HTML; the same input gives the same text.

    Args:
        explanations: one for each conversation, at least one; see `Recognizer.explain`
        media: the recording of the conversation, if there is just one, to play its moments
        title: of the page
        model: which model it was, in words
        generated: when; by default now
        folder: where the report will lie, so that it can refer to the recording by a relative path
        thumbnails: show a small picture of each turn, if the recording has pictures
        embed: put the recording itself into the report, up to 8 MiB

    Raises:
        ConversationError: nothing to report, or a recording with several conversations.
        MediaError: the recording is missing or unreadable, or too large to be embedded.
    """
    if not explanations:
        raise ConversationError("a report needs at least one conversation")
    if media is not None and len(explanations) > 1:
        raise ConversationError(
            f"{media} is one recording, there are {len(explanations)} conversations: make a report of each"
        )
    labels = list(
        dict.fromkeys(k for e in explanations for x in e.prediction.emotions for k in x.probabilities)
    )
    recording = None if media is None else find_recording(Path(media), folder, thumbnails, embed)
    chapters = [_chapter(number, e, labels, recording) for number, e in enumerate(explanations)]
    looks = looks_of(labels)
    style = _asset("page.css") + colours_css(looks) + _widths(chapters)
    script = _asset("page.js")
    html = _template().render(
        title=title,
        model=model,
        generated=generated or datetime.now(),
        chapters=chapters,
        labels=labels,
        looks=looks,
        counts=_total(chapters),
        speakers=list(dict.fromkeys(t.speaker for c in chapters for t in c.turns if t.speaker)),
        several=len(chapters) > 1,
        policy=_policy(style, script, recording),
        style=Markup(style),
        script=Markup(script),
        recording=recording,
        LANE=LANE,
        TOP=TOP,
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # lone surrogates have no place in a file


def write_report(
    path: str | Path,
    explanations: Sequence[Explanation],
    *,
    media: str | Path | None = None,
    title: str = TITLE,
    model: str = "",
    generated: datetime | None = None,
    thumbnails: bool = True,
    embed: bool = False,
) -> None:
    """Write a report to a file; see `render_report`."""
    path = Path(path)
    html = render_report(
        explanations,
        media=media,
        title=title,
        model=model,
        generated=generated,
        folder=path.parent,
        thumbnails=thumbnails,
        embed=embed,
    )
    write_text(path, html)


def _chapter(
    number: int, explanation: Explanation, labels: Sequence[str], recording: Recording | None
) -> Chapter:
    prediction = explanation.prediction
    order = stacking(labels)
    turns = rows(explanation, labels, order, recording)
    annotated = [(turn.gold, labels[turn.label]) for turn in turns if turn.gold is not None]
    return Chapter(
        id=f"c{number}",
        name=prediction.conversation.id,
        turns=turns,
        speakers=len({turn.speaker for turn in turns} - {""}),
        length=_length(prediction),
        modalities=_modalities(prediction),
        timeline=draw(prediction, labels, order),
        answers=count_answers(prediction, labels),
        voices=voices(prediction, labels, order),
        counts=Counter(turn.label for turn in turns).most_common(),
        low=sum(turn.low for turn in turns),
        agreed=(sum(a == b for a, b in annotated), len(annotated)) if annotated else None,
        recording=recording,
    )


def _length(prediction: Prediction) -> str:
    spans = spans_ms(prediction.conversation)
    return clock(max(end for _, end in spans) - min(start for start, _ in spans)) if spans else ""


def _modalities(prediction: Prediction) -> list[Modality]:
    count = len(prediction)
    return [
        Modality(name, coverage.present, round(100 * coverage.present / count, 1), coverage.absent)
        for name, coverage in prediction.modalities.items()
    ]


def _total(chapters: Sequence[Chapter]) -> Counter[int]:
    return Counter(turn.label for chapter in chapters for turn in chapter.turns)


def _widths(chapters: Sequence[Chapter]) -> str:
    """Return rules that keep timelines of many turns wide enough to be read; paper cannot be scrolled."""
    return "".join(
        f"@media screen{{#{c.id}-timeline{{min-width:{WIDE * len(c.turns)}px}}}}"
        f"@media screen and (max-width:640px){{#{c.id}-timeline{{min-width:{NARROW * len(c.turns)}px}}}}"
        for c in chapters
    )


def _policy(style: str, script: str, recording: Recording | None) -> str:
    """Return the Content-Security-Policy: this style, this script, pictures in the file, the recording."""
    rules = [
        "default-src 'none'",
        f"style-src '{_sha256(style)}'",
        f"script-src '{_sha256(script)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if recording is not None:
        rules.append("media-src data:" if recording.embedded else "media-src 'self' file:")
    return "; ".join(rules)


def _sha256(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


@cache
def _asset(name: str) -> str:
    return resources.files("mmerc.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    return environment.from_string(_asset("page.html.jinja"))
