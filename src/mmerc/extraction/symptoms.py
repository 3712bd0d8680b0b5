"""How damage shows: from what was measured of the media of a corpus to notes on its utterances.

A note is about one utterance; what is wrong with a file is noted, in the same words, for each of its own.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from mmerc.errors import MediaError
from mmerc.extraction.work import BEYOND
from mmerc.features.decoding import MediaInfo
from mmerc.features.diagnosis import FaceCount, Heard, Seen
from mmerc.features.loudness import SILENCE_DB
from mmerc.features.recipe import LONGEST_S, Measured
from mmerc.features.spans import Span, sample_times
from mmerc.media import Source

Medium = Literal["sound", "pictures"]

OFF_S: Final = 0.5  # by how much lengths may differ: encoders pad, and subtitles stand a little longer …
OFF: Final = 0.05  # … and as a share of the longer one
OTHER_S: Final = 1.0  # from where on a clip has another length than its transcript's times say …
OTHER: Final = 0.5  # … and as a share of the latter
CLIPPED: Final = 0.01  # of the samples
# Letters and digits per second of speech. 0.9 % of MELD's utterances have more by their times alone, pauses
# included: half of them are sentences of 0.2 s and less.
FASTEST: Final = 30.0
SLACK_S: Final = 0.2  # that the cut may have taken
SLOWEST: Final = 1.0  # 14 of MELD's 13 708 utterances have fewer and are longer than …
LONG_S: Final = 5.0  # … this: `Hey!` in 6.7 s


class Part(NamedTuple):
    """The sound or the pictures of an utterance: where they are, and what was measured."""

    medium: Medium
    source: Source
    info: MediaInfo | MediaError  # what the header says, or why it cannot be read
    measured: Measured

    @property
    def span_s(self) -> float | None:
        """How long it is by the header of the file, or by its times; None if neither says."""
        ends = [end for end in (self.source.end_ms, self._stream_end_ms) if end is not None]
        return max(min(ends) - self.source.start_ms, 0) / 1000 if ends else None

    @property
    def expected_s(self) -> float:
        """How much of it there must be to measure, if that is known."""
        span_s = self.span_s
        if span_s is None:
            return self.found_s
        if self.medium == "sound":
            return min(span_s, LONGEST_S)
        start = self.source.start_ms
        times = sample_times(Span(start, start + round(1000 * span_s)), FaceCount.frames_per_second)
        return len(times) / FaceCount.frames_per_second

    @property
    def found_s(self) -> float:
        """How much of it there was to measure."""
        if self.measured.values is None:
            return 0.0
        if self.medium == "sound":
            return Heard(*self.measured.values.tolist()).seconds
        return Seen(*self.measured.values.tolist()).pictures / FaceCount.frames_per_second

    @property
    def _stream_end_ms(self) -> int | None:
        if isinstance(self.info, MediaError):
            return None
        stream = self.info.sound if self.medium == "sound" else self.info.pictures
        return None if stream is None else stream.length_ms


class Case(NamedTuple):
    """One utterance."""

    row: int
    text: str
    media: str  # as the corpus names it
    told_s: float | None  # its length by the transcript's times
    sound: Part | None
    pictures: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What there is of it."""
        return tuple(part for part in (self.sound, self.pictures) if part is not None)

    @property
    def heard(self) -> Heard | None:
        """What was measured of its sound."""
        values = None if self.sound is None else self.sound.measured.values
        return None if values is None else Heard(*values.tolist())

    @property
    def seen(self) -> Seen | None:
        """What was measured of its pictures."""
        values = None if self.pictures is None else self.pictures.measured.values
        return None if values is None else Seen(*values.tolist())


class Note(NamedTuple):
    """What is wrong with an utterance."""

    row: int
    kind: str
    field: str
    file: Path | None
    message: str


def notes(cases: Sequence[Case], root: Path) -> Iterator[Note]:
    """Yield all that is wrong with the media of utterances, which lie in the folder `root`."""
    files: dict[Path, list[tuple[int, Part]]] = defaultdict(list)
    for case in cases:
        for part in case.parts:
            files[part.source.file].append((case.row, part))
    for file, parts in files.items():
        yield from _file(file, parts)
    users = {file: len({row for row, _ in parts}) for file, parts in files.items()}
    yield from _absent(cases, root)
    for case in cases:
        yield from _times(case)
        yield from _length(case, users)
        yield from _sound(case)
        yield from _text(case)
        if case.seen is not None and not case.seen.with_face:
            yield Note(case.row, "no face", "visual_file", None, "no face in any picture")


def _file(file: Path, parts: Sequence[tuple[int, Part]]) -> Iterator[Note]:
    """Yield what is wrong with a file, for each utterance that lies in it."""
    info = parts[0][1].info
    if isinstance(info, MediaError):
        kind, message = "corrupt", str(info)
        if not file.exists():
            kind, message = "missing", f"{file} does not exist: put it back, or set --media-root"
        yield from (Note(row, kind, "media", file, message) for row, _ in parts)
        return
    whole: list[tuple[int, Part]] = []
    for row, part in parts:
        stream = info.sound if part.medium == "sound" else info.pictures
        measured = part.measured
        if stream is None:
            message = f"the file has no {part.medium}: is it the right one, was it converted without?"
            yield Note(row, f"no {part.medium}", _field(part), file, message)
        elif measured.values is None and measured.reason != BEYOND.reason:
            yield Note(row, "corrupt", "media", file, measured.reason)
        else:
            whole.append((row, part))
    yield from _lengths(file, info, whole)


def _lengths(file: Path, info: MediaInfo, parts: Sequence[tuple[int, Part]]) -> Iterator[Note]:
    """Yield whether a file ends too early, or its sound and its pictures at different times."""
    short = [
        (row, part)
        for row, part in parts
        if part.found_s < part.expected_s and _differ(part.expected_s, part.found_s)
    ]
    used, broken = ({part.medium for _, part in some} for some in (parts, short))
    if short and used == broken:
        told = ", ".join(_told(short, medium) for medium in sorted(broken, reverse=True))
        message = f"the file breaks off: {told}; copy or download it again"
        yield from (Note(row, "incomplete", "media", file, message) for row, _ in short)
        return
    ends = [stream.length_ms for stream in (info.sound, info.pictures) if stream and stream.length_ms]
    if len(ends) == 2 and _differ(ends[0] / 1000, ends[1] / 1000):
        told = f"the sound ends after {ends[0] / 1000:.1f} s, the pictures after {ends[1] / 1000:.1f} s"
    elif short:  # containers such as Matroska give one length for both
        told = _told(short, broken.pop())
    else:
        return
    message = f"{told}: convert the original again; what is missing counts as absent"
    yield from (Note(row, "lengths differ", "media", file, message) for row, _ in parts)


def _absent(cases: Sequence[Case], root: Path) -> Iterator[Note]:
    """Yield what has no file, where others have one."""
    lacking = {"sound": "audio_file", "pictures": "visual_file"}
    usual = {medium for medium in lacking if any(part.medium == medium for c in cases for part in c.parts)}
    for case in cases:
        there = {part.medium for part in case.parts}
        if not there and case.media:
            message = (
                f"{case.media} was not there when the corpus was imported: put it to the others under {root} "
                "and import again with --force"
            )
            yield Note(case.row, "missing", "media", root / case.media, message)
            continue
        for medium in sorted(usual - there, reverse=True):
            yield Note(case.row, f"no {medium}", lacking[medium], None, f"no file with {medium} is known")


def _times(case: Case) -> Iterator[Note]:
    """Yield where the times of an utterance are not those of its file."""
    for part in case.parts:
        (file, start, end, _), info = part.source, part.info
        if end is not None and end <= start:
            message = f"the part from {start} to {end} ms is no span of time: correct its times"
            yield Note(case.row, "times", "end_ms", file, message)
        if isinstance(info, MediaError) or info.length_ms is None:
            continue
        over = f"the end of the file at {info.length_ms} ms: do transcript and recording belong together?"
        if start >= info.length_ms:
            yield Note(case.row, "times", "start_ms", file, f"starts at {start} ms, after {over}")
        elif end is not None and end > info.length_ms + 1000 * OFF_S:
            yield Note(case.row, "times", "end_ms", file, f"ends at {end} ms, after {over}")


def _length(case: Case, users: Mapping[Path, int]) -> Iterator[Note]:
    """Yield whether an utterance is too long, or of another length than the transcript says.

    The latter only where it is a whole file of its own: a part of one was cut by the transcript's times.
    """
    part = next((part for part in case.parts if part.span_s), None)
    if part is None or part.span_s is None:
        return
    lasts_s, file = part.span_s, part.source.file
    told_s = case.told_s if users[file] == 1 and part.source.end_ms is None else None
    if told_s is not None and abs(lasts_s - told_s) > max(OTHER_S, OTHER * told_s):
        kind = "over-long" if lasts_s > told_s else "cut short"
        message = (
            f"lasts {lasts_s:.1f} s, by the transcript's times {told_s:.1f} s: listen to it, cut it again"
        )
        yield Note(case.row, kind, "media", file, message)
    elif lasts_s > LONGEST_S:
        message = f"lasts {lasts_s:.1f} s: features see the first {LONGEST_S:.0f} s; split the utterance"
        yield Note(case.row, "over-long", "media", file, message)


def _sound(case: Case) -> Iterator[Note]:
    """Yield whether sound is silent or clipped."""
    if case.sound is None or case.heard is None:
        return
    heard, file = case.heard, case.sound.source.file
    if heard.level_db < SILENCE_DB:
        message = f"silent ({heard.level_db:.0f} dB): is it the right track, was the microphone on?"
        yield Note(case.row, "silent", "audio_file", file, message)
    if heard.clipped > CLIPPED:
        message = f"clipped: {heard.clipped:.1%} of the samples are cut off; take a recording of lower level"
        yield Note(case.row, "clipped", "audio_file", file, message)


def _text(case: Case) -> Iterator[Note]:
    """Yield whether the text cannot be what is said."""
    if case.sound is None or case.heard is None or case.heard.level_db < SILENCE_DB:
        return
    letters = sum(character.isalnum() for character in case.text)
    lasts_s = case.sound.span_s or case.heard.seconds
    speech_s = lasts_s * case.heard.active
    told = f"{letters} letters in {speech_s:.1f} s of speech"
    if letters > FASTEST * (speech_s + SLACK_S):
        message = f"{told}: nobody speaks so fast; is it the text of this clip, was the clip cut short?"
    elif letters and lasts_s > LONG_S and letters < SLOWEST * speech_s:
        message = f"{told}: is it the text of this clip, is more said than that?"
    else:
        return
    yield Note(case.row, "text mismatch", "text", case.sound.source.file, message)


def _told(parts: Sequence[tuple[int, Part]], medium: Medium) -> str:
    some = [part for _, part in parts if part.medium == medium]
    found, expected = sum(part.found_s for part in some), sum(part.expected_s for part in some)
    return f"{found:.1f} of {expected:.1f} s of the {medium} can be decoded"


def _field(part: Part) -> str:
    return "audio_file" if part.medium == "sound" else "visual_file"


def _differ(a: float, b: float) -> bool:
    return abs(a - b) > max(OFF_S, OFF * max(a, b))
