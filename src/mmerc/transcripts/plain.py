"""Plain text transcripts: `Speaker: text` lines, or one utterance per line without speakers.

A speaker is what stands before the first ": ", at most 40 characters without sentence punctuation; a URL
or a time of day is none. A line without a speaker continues the utterance above it. In a file that does
not begin with a speaker, and in which none speaks twice, what looks like a speaker is taken for text, and
each line is an utterance of an unknown speaker. Blank lines are skipped.

A time at the front of a line is dropped: it may be a position in a recording or the time of day, and
nothing tells which. It does begin a new utterance.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mmerc.errors import ConversationError

_COLON = r"(?: : (?=\s|$) | ： )"
_NAME = r"""
    (?= [^:：]{1,40} [:：] ) (?= [^:：]* \w )
    (?: \b[A-Z]\w{0,3}\. | [^.:：;,!?/"…。！？] )+  # the first alternative is for Mr. and Dr.
"""
_SPEAKER = re.compile(rf"(?P<speaker> {_NAME} ) {_COLON} (?P<text> .* )", re.VERBOSE)
_CLOCK = r"\d{1,2}:\d\d (?: :\d\d )? (?: [.,]\d{1,3} )? (?: \s?[AaPp]\.?[Mm]\.? )?"
_TIME = re.compile(
    rf"""
    \[ [^\]]{{0,40}} \d:\d\d [^\]]{{0,40}} \] \s*                             # [00:01:02]  [12:30, 3/4/2024]
    | \d{{1,4}} [./-] \d{{1,2}} [./-] \d{{1,4}} ,? \s+ {_CLOCK} \s+ [-–] \s+  # 3/4/24, 12:30 PM - Anna: …
    | {_CLOCK} \s+ (?= {_NAME} {_COLON} )                                     # 00:01:02 Anna: …
    """,
    re.VERBOSE,
)
_CUE = re.compile(  # SubRip and WebVTT, SubStation, MicroDVD
    r"\d\d[.,]\d{3}\s+-->\s | ^Dialogue:[^,]*,\d+:\d\d:\d\d[.,]\d+, | ^\{\d+\}\{\d+\}", re.VERBOSE
)
_DIRECTION_MARKS = "\u200e\u200f\u202a\u202c"  # chat exports begin lines with them; they would hide the time


class Speech(NamedTuple):
    """One utterance: the number of its first line, its speaker ("" where unknown), and its text."""

    line: int
    speaker: str
    text: str


class _Line(NamedTuple):
    number: int
    timed: bool
    content: str  # without the time
    speaker: str  # the two parts of the content; without a speaker, the text is all of it
    text: str


def read_lines(text: str, where: str) -> Iterator[Speech]:
    """Yield the utterances of a plain text, which comes from the file `where`.

    Raises:
        ConversationError: the text is a subtitle file.
    """
    lines = [_line(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if cue := next((line for line in lines if _CUE.search(line.content)), None):
        raise ConversationError(
            f"{where}: line {cue.number}: a subtitle file is not plain text: name it .srt, .vtt or .ass "
            "after its kind, and convert another kind to .srt"
        )
    if names_speakers([line.speaker for line in lines]):
        yield from _joined(lines)
    else:
        yield from (Speech(line.number, "", line.content) for line in lines)


def split_speaker(line: str) -> tuple[str, str]:
    """Return what looks like the speaker at the front of a line, "" where nothing does, and the rest.

    The brackets that WhisperX sets around a speaker, as in `[SPEAKER_00]: text`, are taken off.
    """
    line = line.strip().lstrip(_DIRECTION_MARKS)
    if (found := _SPEAKER.match(line)) is None:
        return "", line
    name = found["speaker"].strip()
    inner = name[1:-1].strip() if name.startswith("[") and name.endswith("]") else ""
    return inner or name, found["text"].strip()


def names_speakers(found: Sequence[str]) -> bool:
    """Say whether what looks like a speaker in a text is one: when the first line has it, or one comes twice.

    Args:
        found: the speaker of each line, "" where it has none
    """
    turns = Counter(filter(None, found))
    return bool(found) and (found[0] != "" or max(turns.values(), default=0) > 1)


def _line(number: int, line: str) -> _Line:
    line = line.strip().lstrip(_DIRECTION_MARKS)
    time = _TIME.match(line)
    content = line[time.end() :] if time else line
    return _Line(number, time is not None, content, *split_speaker(content))


def _joined(lines: list[_Line]) -> Iterator[Speech]:
    first, texts = lines[0], [lines[0].text]
    for line in lines[1:]:
        if line.speaker or line.timed:
            yield Speech(first.number, first.speaker, " ".join(filter(None, texts)))
            first, texts = line, []
        texts.append(line.text)
    yield Speech(first.number, first.speaker, " ".join(filter(None, texts)))
