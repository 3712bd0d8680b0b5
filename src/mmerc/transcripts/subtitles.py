"""SubRip (`.srt`) and WebVTT (`.vtt`).

The libraries for these leave out what they cannot read. Here every line that has an arrow, or is like a
time line, must be one, and text that no cue claims is an error. Blank lines inside a cue of SubRip, which
many files have, do not end it.
"""

import html
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmerc.errors import ConversationError
from mmerc.transcripts.clock import clock_ms
from mmerc.transcripts.cues import Cue, Turn, cue_rows, lines_of
from mmerc.transcripts.rows import Row, short

_TIMES = re.compile(r"\s* (?P<start> [^\s>]+?) \s* --> \s* (?P<end> \S+ ) (?: \s .* )?", re.VERBOSE)
_MEANT_AS_TIMES = re.compile(  # an arrow, or two times with anything like one between them
    r"--> | ^ \s* -? \d+ (?: :\d+ ){1,2} [.,] \d+ \s* [^\w\s]{1,3} \s* -? \d+ : \d", re.VERBOSE
)
_VOICE = re.compile(r"<v (?: \. [^\s<>]* )? (?: \s++ ([^<>]*+) )? > | </v>", re.VERBOSE)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TAG = re.compile(r"</? [a-zA-Z] [^<>]* > | < [0-9:.]+ > | \{ \\ [^{}]* \}", re.VERBOSE)
_ASIDE = re.compile(r"(?: NOTE | STYLE | REGION ) (?: \s .* | : .* )?", re.VERBOSE)

_Block = list[tuple[int, str]]  # lines without a blank one between them, with their numbers


def srt_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of SubRip subtitles, or of WebVTT under a wrong name."""
    lines = lines_of(text)
    if lines[0].startswith("WEBVTT"):
        return vtt_rows(path, text)
    return cue_rows(list(_cues(str(path), lines, vtt=False)))


def vtt_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of WebVTT subtitles (W3C WebVTT: The Web Video Text Tracks Format)."""
    lines = lines_of(text)
    if re.match(r"WEBVTT(?:\s|$)", lines[0]) is None:
        raise ConversationError(f"{path}: line 1: a .vtt file begins with WEBVTT; name SubRip .srt")
    body = next((number for number, line in enumerate(lines) if not line or "-->" in line), len(lines))
    lines[:body] = [""] * body  # the header may go on below WEBVTT
    return cue_rows(list(_cues(str(path), lines, vtt=True)))


def _cues(path: str, lines: Sequence[str], vtt: bool) -> Iterator[Cue]:
    timed = [number for number, line in enumerate(lines) if _MEANT_AS_TIMES.search(line)]
    claims = _vtt_text if vtt else _srt_text
    ends = [*timed, len(lines)]
    claims(path, _blocks(lines, 0, ends[0], vtt), False)
    for number, end in zip(timed, ends[1:], strict=True):
        start_ms, end_ms = _times(path, number + 1, lines[number])
        shown = claims(path, _blocks(lines, number + 1, end, vtt), True)
        yield Cue(number + 1, start_ms, end_ms, _turns(shown, html.unescape if vtt else str))


def _times(path: str, number: int, line: str) -> tuple[int, int]:
    found = _TIMES.fullmatch(line)
    start, end = (clock_ms(found[name]) if found else None for name in ("start", "end"))
    if start is None or end is None:
        raise ConversationError(
            f"{path}: line {number}: expected times such as 00:01:02,500 --> 00:01:04,000, not {short(line)}"
        )
    return start, end


def _blocks(lines: Sequence[str], start: int, end: int, vtt: bool) -> list[_Block]:
    """Return what stands between two time lines, without the number or name that belongs to the second."""
    if start < end < len(lines):
        before, last = lines[end - 2].strip(), lines[end - 1].strip()
        end -= bool(last and not before) if vtt else last.isdigit()
    blocks: list[_Block] = [[]]
    for number in range(start, end):
        blank = not lines[number] if vtt else not lines[number].strip()
        if blank:
            blocks.append([])
        else:
            blocks[-1].append((number + 1, lines[number]))
    return blocks


def _srt_text(path: str, blocks: Sequence[_Block], cue: bool) -> str:
    """Return the text of a cue from the blocks that follow its times; `cue` is False before the first."""
    filled = [block for block in blocks if block]
    for block in filled[1 if cue else 0 :]:
        number, line = block[0]
        if not cue or line.strip().isdigit():
            raise ConversationError(f"{path}: line {number}: {short(line)} has no time line")
    return "\n".join(line for block in filled for _, line in block)


def _vtt_text(path: str, blocks: Sequence[_Block], cue: bool) -> str:
    """Return the text of a cue, which a blank line ends; then there are comments and styles alone."""
    for block in blocks[1 if cue else 0 :]:
        spoken = [(number, line) for number, line in block if line.strip()]
        if spoken and not _ASIDE.fullmatch(spoken[0][1]):
            number, line = spoken[0]
            raise ConversationError(f"{path}: line {number}: {short(line)} has no time line")
    return "\n".join(line for _, line in blocks[0]) if cue else ""


def _turns(shown: str, unescape: Callable[[str], str]) -> list[Turn]:
    """Tell apart the voices of a cue, and take off the markup."""
    first, *rest = _VOICE.split(shown)
    voiced = [("", first), *zip(rest[::2], rest[1::2], strict=True)]
    plain = [(unescape(speaker or ""), _TAG.sub("", _BREAK.sub("\n", said))) for speaker, said in voiced]
    return [Turn(speaker, unescape(said)) for speaker, said in plain if said.strip()]
