"""Sound and pictures of a media file by time span.

Times are on the clock of the file (`mmerc.features.media_file`). What a span or a time gives does not
depend on the other spans and times that are read with it.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from mmerc.errors import MediaError
from mmerc.features.media_file import (
    Damage,
    MediaInfo,
    clock_origin,
    decode,
    find_stream,
    open_media,
    probe,
    read_packets,
    time_unit,
)
from mmerc.features.recipe import LONGEST_S, SAMPLE_RATE, Image, Samples
from mmerc.features.resampling import resample
from mmerc.features.spans import Span
from mmerc.media import Crop

# PyAV comes after media_file, which says what to install when it is missing.
# isort: split
import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

__all__ = ["Damage", "MediaInfo", "probe", "read_pictures", "read_sound"]

SEEK_GAP_S: Final = 10.0  # between two pictures, from which on it is worth while to seek
LAST_PICTURE_S: Final = 0.04  # how long the last one stands when the file does not say

_SEEKABLE: Final = ("mov", "matroska")  # their index and time stamps are exact
_MS: Final = SAMPLE_RATE // 1000  # samples in a millisecond
_EIGHT_BIT_LUMA: Final = frozenset(
    ["gray", "nv12", "nv21", "nv16", "yuva420p", "yuva422p", "yuva444p"]
    + [f"yuv{j}{chroma}p" for j in ("", "j") for chroma in (410, 411, 420, 422, 440, 444)]
)
_FULL_RANGE: Final = 2  # AVCOL_RANGE_JPEG
_STRETCH: Final = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


def read_sound(
    path: Path, spans: Sequence[Span], longest_s: float = LONGEST_S, *, damage: Damage | None = None
) -> Iterator[tuple[int, Samples]]:
    """Yield the sound of each span, mono at `SAMPLE_RATE`, as soon as it is complete.

    The file is decoded once, from its start to the end of the last span, because seeking in sound is not
    exact. Gaps and what comes before the first sound are zeros; what a span has beyond the end of the file
    is left out.

    Args:
        path: a media file
        spans: in any order; they may overlap; one that ends before it starts is empty
        longest_s: of each span, what comes later is left out
        damage: told of packets that could not be decoded

    Yields:
        (index of the span, (S,) samples in [-1, 1])

    Raises:
        MediaError: the file cannot be read, has no sound, or none of it can be decoded.
    """
    longest = round(longest_s * SAMPLE_RATE)
    clips = [_Clip(index, span, longest) for index, span in enumerate(spans)]
    with open_media(path) as container:
        stream = find_stream(container, "audio")
        if not isinstance(stream, AudioStream):
            raise MediaError(f"{path} has no sound")
        yield from ((clip.index, clip.release()) for clip in clips if clip.end <= clip.start)
        asked = [clip for clip in clips if clip.end > clip.start]
        if asked:
            yield from _cut(asked, resample(path, container, stream, damage or Damage()), path)


def read_pictures(
    path: Path,
    times_ms: Sequence[int],
    *,
    colour: bool = False,
    crop: Crop = "",
    damage: Damage | None = None,
) -> Iterator[tuple[int, Image]]:
    """Yield what is on the screen at each time, upright; nothing before the first and after the last picture.

    Args:
        path: a media file
        times_ms: ascending
        colour: (H, W, 3) RGB instead of (H, W) grey
        crop: the half of a split screen
        damage: told of packets that could not be decoded

    Yields:
        (time in ms, picture)

    Raises:
        MediaError: the file cannot be read, has no pictures, or none of them can be decoded.
    """
    if any(later <= earlier for earlier, later in pairwise(times_ms)):
        raise ValueError("the times of pictures must ascend")
    with open_media(path) as container:
        stream = find_stream(container, "video")
        if not isinstance(stream, VideoStream):
            raise MediaError(f"{path} has no pictures")
        film = _Film(path, container, stream, damage or Damage())
        screen = _Screen(colour, crop)
        for time, frame in film.shown(times_ms):
            yield time, screen(frame)


class _Clip:
    """The samples of one span, gathered from a stream of chunks."""

    def __init__(self, index: int, span: Span, longest: int) -> None:
        self.index = index
        self.start = max(0, span.start_ms) * _MS
        self.end = self.start + longest
        if span.end_ms is not None:
            self.end = min(self.end, span.end_ms * _MS)
        self._filled = self.start
        self._pieces: list[Samples] = []

    def add(self, position: int, chunk: Samples) -> None:
        """Take what belongs to the span of a chunk that lies at `position` of the file."""
        gap = min(position, self.end) - self._filled
        if gap > 0:
            self._take(np.zeros(gap, np.float32))
        self._take(chunk[max(0, self._filled - position) : max(0, self.end - position)].copy())

    def _take(self, piece: Samples) -> None:
        self._pieces.append(piece)
        self._filled += len(piece)

    def release(self) -> Samples:
        """Hand the samples over, and keep none."""
        pieces, self._pieces = self._pieces, []
        return np.concatenate([np.zeros(0, np.float32), *pieces])


def _cut(
    clips: Iterable[_Clip], chunks: Iterable[tuple[int, Samples]], path: Path
) -> Iterator[tuple[int, Samples]]:
    """Yield each clip as soon as the chunks have passed its end."""
    waiting = deque(sorted(clips, key=lambda clip: clip.start))
    filling: list[_Clip] = []
    passed = None
    for position, chunk in chunks:
        passed = position + len(chunk)
        while waiting and waiting[0].start < passed:
            filling.append(waiting.popleft())
        for clip in filling:
            clip.add(position, chunk)
        yield from ((clip.index, clip.release()) for clip in filling if clip.end <= passed)
        filling = [clip for clip in filling if clip.end > passed]
        if not waiting and not filling:
            return
    if passed is None:
        raise MediaError(
            f"none of the sound of {path} can be decoded: is it complete, does a player play it?"
        )
    yield from ((clip.index, clip.release()) for clip in chain(filling, waiting))


class _Film:
    """The pictures of an open file, found by time."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, damage: Damage) -> None:
        self._path, self._container, self._stream, self._damage = path, container, stream, damage
        self._unit, self._origin = time_unit(stream), clock_origin(container)
        self._gap = math.ceil(SEEK_GAP_S / self._unit)
        rate = stream.average_rate
        self._last = round((1 / rate if rate else Fraction(LAST_PICTURE_S)) / self._unit)
        self._can_seek = any(name in container.format.name for name in _SEEKABLE)
        self._at_start = True

    def shown(self, times_ms: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield each time with the frame that is on the screen then."""
        from_start, *sought = self._stretches(times_ms)
        if from_start:
            yield from self._walk(from_start, self._from_start())
        for stretch in sought:
            yield from self._walk(stretch, self._from_before(self._stamp(stretch[0])))

    def _stamp(self, time_ms: int) -> int:
        """Return the latest time stamp, in units of the stream, that is not after a time of the clock."""
        return math.floor((Fraction(time_ms, 1000) + self._origin) / self._unit)

    def _stretches(self, times_ms: Sequence[int]) -> list[list[int]]:
        """Split times where to seek a keyframe is less work than to decode all that lies between.

        The first stretch, which may be empty, is read from the start of the file.
        """
        stretches: list[list[int]] = [[]]
        before = self._stamp(0)
        if self._can_seek and times_ms and self._stamp(times_ms[-1]) - before > self._gap:
            self._seek(before)  # Matroska reads its index on the first seek
        for time in times_ms:
            stamp = self._stamp(time)
            if self._can_seek and stamp - before > self._gap and self._keyframe(stamp) > before:
                stretches.append([])
            stretches[-1].append(time)
            before = stamp
        return stretches

    def _keyframe(self, stamp: int) -> float:
        """Return the time stamp of the last keyframe up to another, as far as the index of the file says."""
        entry = self._stream.index_entries.search_timestamp(stamp)
        return -math.inf if entry < 0 else self._stream.index_entries[entry].timestamp

    def _walk(self, times_ms: Sequence[int], frames: Iterable[Any]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield each time with the last of the frames up to it."""
        wanted = deque((time, self._stamp(time)) for time in times_ms)
        held: Any = None
        for frame in frames:
            while wanted and wanted[0][1] < frame.pts:
                time, _ = wanted.popleft()
                if held is not None:
                    yield time, held
            if not wanted:
                return
            if held is None or frame.pts > held.pts:
                held = frame
        if held is None:
            raise MediaError(f"none of the pictures of {self._path} can be decoded: does a player show it?")
        end = held.pts + self._last
        yield from ((time, held) for time, stamp in wanted if stamp < end)

    def _from_start(self) -> Iterator[Any]:
        if self._at_start:
            yield from self._timed(self._container, self._stream)
            return
        with open_media(self._path) as container:
            stream = find_stream(container, "video")
            if stream is not None:
                yield from self._timed(container, stream)

    def _timed(self, container: InputContainer, stream: Stream) -> Iterator[Any]:
        """Yield the frames that follow; one without a time stamp is put behind the one before it."""
        following = self._stamp(0)
        for frame in decode(stream, read_packets(container, stream, self._damage), self._damage):
            if frame.pts is None:
                frame.pts = following
            following = frame.pts + self._last
            yield frame

    def _from_before(self, stamp: int) -> Iterator[Any]:
        """Yield frames of which the first is not after a time stamp."""
        for back in (0, self._gap, 6 * self._gap):
            frames = self._from_keyframe(stamp - back)
            first = next(frames, None)
            if first is not None and first.pts <= stamp:
                yield first
                yield from frames
                return
        yield from self._from_start()

    def _from_keyframe(self, stamp: int) -> Iterator[Any]:
        """Seek the last keyframe up to a time stamp; yield it and what is shown after it.

        Frames that are decoded after a keyframe but shown before it may need what lies before it.
        """
        if not self._seek(stamp):
            return
        packets = read_packets(self._container, self._stream, self._damage)
        first = next(packets)
        if first is None or first.pts is None or not first.is_keyframe:
            return
        for frame in decode(self._stream, chain([first], packets), self._damage):
            if frame.pts is not None and frame.pts >= first.pts:
                yield frame

    def _seek(self, stamp: int) -> bool:
        self._at_start = False
        try:
            self._container.seek(stamp, stream=self._stream)
        except av.FFmpegError:
            return False
        return True


class _Screen:
    """Turns frames into pictures as they are shown, or into one half of them."""

    def __init__(self, colour: bool, crop: Crop) -> None:
        self._colour, self._crop = colour, crop
        self._reformatter = VideoReformatter()
        self._matrices: dict[int, list[int]] = {}  # by rotation in degrees

    def __call__(self, frame: VideoFrame) -> Image:
        image = self._upright(self._pixels(frame), frame)
        half = image.shape[1] // 2
        if self._crop:
            image = image[:, :half] if self._crop == "left" else image[:, -half:]
        return image.copy()  # the memory of a frame is used again for another one

    def _pixels(self, frame: VideoFrame) -> Image:
        name = frame.format.name
        if self._colour:
            return _first_plane(self._reformatter.reformat(frame, format="rgb24", threads=1), 3)
        if name not in _EIGHT_BIT_LUMA:
            full = self._reformatter.reformat(frame, format="gray", dst_color_range="JPEG", threads=1)
            return _first_plane(full)
        luma = _first_plane(frame)
        full_range = frame.color_range == _FULL_RANGE or name.startswith(("gray", "yuvj"))
        return luma if full_range else np.take(_STRETCH, luma)

    def _upright(self, image: Image, frame: VideoFrame) -> Image:
        """Turn and mirror a picture as its display matrix says, as far as that is by right angles."""
        rotation = frame.rotation
        if not rotation:
            return image
        if rotation not in self._matrices:
            # Asking a frame for its side data makes a cycle of references, which keeps the frame in memory.
            side_data: Any = frame.side_data
            self._matrices[rotation] = np.frombuffer(side_data["DISPLAYMATRIX"], np.int32).tolist()
        a, b, _, c, d, *_ = self._matrices[rotation]
        if abs(b) > abs(a):
            image, a, d = image.swapaxes(0, 1), c, b
        return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _first_plane(frame: VideoFrame, channels: int = 1) -> Image:
    """Return the first plane, (H, W) or (H, W, channels), without padding."""
    plane: Any = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height]
    image: Image = rows[:, : frame.width * channels]
    return image if channels == 1 else image.reshape(frame.height, frame.width, channels)
