"""What subtitles show for some time, told apart into utterances.

Speakers come from the file (voice tags, the name field of SubStation) or, where no cue has one, from
`Speaker: text` prefixes under the rule of `mmerc.transcripts.plain`. In one cue, a new utterance begins at
a voice tag, at a prefix, at the mark `>>` of broadcast captions, and at the dashes of

    - How are you?
    - Fine.

Its utterances share the time of the cue in proportion to the lengths of their texts. A cue is left out
when it is empty; so is what nobody in particular says and is but the description of a sound: `[music]`,
`(laughs)`, `♪ la la ♪`. `Anna: (laughs)` stays: it is Anna's.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from mmerc.transcripts.plain import names_speakers, split_speaker
from mmerc.transcripts.rows import Row


class Turn(NamedTuple):
    """What one speaker, "" where unknown, says in a cue; the text may have several lines."""

    speaker: str
    text: str


class Cue(NamedTuple):
    """One subtitle: the line of its times, the times, and what it shows, without markup."""

    line: int
    start_ms: int
    end_ms: int
    turns: list[Turn]


_CHEVRONS = re.compile(r"^[^\S\n]*>{2,3}\s*|(?<=[.!?…])\s+>{2,3}\s*", re.MULTILINE)
_DASH = re.compile(r"^[^\S\n]*[-–—‐](?![-–—‐\d])[^\S\n]*", re.MULTILINE)
_PAUSE = r"[\s.,!?…-]*+"
_SOUND = re.compile(
    rf"""{_PAUSE} (?:
        (?: \[[^][]*+\] | \([^()]*+\) | （[^（）]*+） | ［[^［］]*+］ | [♪♫♬]++ [^♪♫♬]*+ (?: [♪♫♬]++ | $ ) )
        {_PAUSE} )++""",
    re.VERBOSE,
)


def lines_of(text: str) -> list[str]:
    """Return the lines of a file; Windows' line ends, and those that a tool has doubled, are one."""
    return re.sub(r"\r*\n|\r", "\n", text).split("\n")


def cue_rows(cues: Sequence[Cue]) -> Iterator[Row]:
    """Yield the utterances of subtitles."""
    split = [(cue, [turn for whole in cue.turns for turn in _at_marks(whole)]) for cue in cues]
    everything = [turn for _, turns in split for turn in turns]
    if not any(turn.speaker for turn in everything):
        lines = (line for turn in everything if not _is_sound(turn) for line in turn.text.split("\n"))
        if names_speakers([split_speaker(line)[0] for line in lines]):
            split = [(cue, [turn for whole in turns for turn in _at_prefixes(whole)]) for cue, turns in split]
    for cue, turns in split:
        yield from _timed(cue, [_on_one_line(turn) for turn in turns])


def _at_marks(turn: Turn) -> Iterator[Turn]:
    """Split at the marks of another speaker; the speaker, if known, holds for the first part only."""
    parts = [part for piece in _CHEVRONS.split(turn.text) for part in _at_dashes(piece)]
    spoken = [part.strip() for part in parts if part.strip()]
    for number, part in enumerate(spoken):
        yield Turn(turn.speaker if number == 0 else "", part)


def _at_dashes(text: str) -> list[str]:
    """Split a dialogue; one dash alone is part of the text."""
    parts = _DASH.split(text)
    return parts if len(parts) > 2 else [text]


def _at_prefixes(turn: Turn) -> Iterator[Turn]:
    speaker, said = "", ""
    for line in turn.text.split("\n"):
        name, rest = split_speaker(line)
        if name:
            yield Turn(speaker, said)
            speaker, said = name, ""
        said = f"{said} {rest}"
    yield Turn(speaker, said)


def _on_one_line(turn: Turn) -> Turn:
    return Turn(" ".join(turn.speaker.split()), " ".join(turn.text.split()))


def _is_sound(turn: Turn) -> bool:
    return not turn.speaker and _SOUND.fullmatch(turn.text) is not None


def _timed(cue: Cue, turns: Sequence[Turn]) -> Iterator[Row]:
    spoken = [turn for turn in turns if turn.text]
    lengths = list(accumulate((len(turn.text) for turn in spoken), initial=0))
    duration = cue.end_ms - cue.start_ms
    moments = [cue.start_ms + duration * length // max(lengths[-1], 1) for length in lengths]
    for turn, (start, end) in zip(spoken, pairwise(moments), strict=True):
        if not _is_sound(turn):
            fields = {"speaker": turn.speaker, "text": turn.text, "start_ms": start, "end_ms": end}
            yield Row(f"line {cue.line}", fields, timed=True)
