"""Open media files with PyAV, safely, and say what they hold.

The clock of a file starts with the earliest of its streams: 0 ms is where a player starts to play. Files
are read through a Python handle and with the demuxers of `FORMATS` alone, so that neither a name such as
`http:x.mp4` nor a playlist inside can make the decoder open anything else.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from mmerc.errors import MediaError
from mmerc.extras import needed

with needed("reading sound and pictures", "mmerc[media]", MediaError):
    import av
    from av.container import InputContainer
    from av.stream import Discard, Disposition, Stream

# Demuxers that read one file and nothing else; playlists, image sequences and devices are not among them.
FORMATS: Final = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,dv,eac3,flac,flv,h264,hevc,ivf,m4v,matroska,mjpeg,"
    "mov,mp3,mpeg,mpegts,mpegvideo,mxf,nistsphere,nut,ogg,rm,tta,voc,w64,wav,wv"
)
THREADS: Final = 1  # of a decoder: extraction runs one process per core
MOST_PIXELS: Final = 2**26  # of a picture: 8K and some; a broken header must not claim all memory
# Titles may be of any encoding; from version 19 on PyAV reads them so by itself.
TITLES: Final[Mapping[str, Any]] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


class SoundInfo(NamedTuple):
    """What the header says of the sound of a file."""

    length_ms: int | None  # where it ends on the clock of the file; None: not said
    sample_rate: int
    channels: int
    codec: str


class PicturesInfo(NamedTuple):
    """What the header says of the pictures of a file."""

    length_ms: int | None
    width: int  # as shown, that is after the rotation
    height: int
    frames_per_second: float | None  # on average
    rotation: int  # degrees counterclockwise that a stored picture is turned by
    codec: str


class MediaInfo(NamedTuple):
    """What a media file holds."""

    container: str
    sound: SoundInfo | None
    pictures: PicturesInfo | None

    @property
    def length_ms(self) -> int | None:
        """Where the longer of sound and pictures ends."""
        lengths = [part.length_ms for part in (self.sound, self.pictures) if part and part.length_ms]
        return max(lengths, default=None)


@dataclass
class Damage:
    """Counts what of a file could not be decoded while it was read; the rest is used, as players do."""

    packets: int = 0


def probe(path: Path) -> MediaInfo:
    """Say what a file holds, from its header and first picture.

    Raises:
        MediaError: the file is missing, empty, broken, or holds neither sound nor pictures.
    """
    with open_media(path) as container:
        sound, pictures = find_stream(container, "audio"), find_stream(container, "video")
        if sound is None and pictures is None:
            raise MediaError(f"{path} has neither sound nor pictures that can be decoded")
        return MediaInfo(
            container.format.name,
            None if sound is None else _sound_info(container, sound),
            None if pictures is None else _pictures_info(container, pictures),
        )


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a local file, whatever its name looks like; what libav says of it becomes a `MediaError`."""
    try:
        _check_file(path)
        with path.open("rb", buffering=0) as file:
            _hide_name(file, path)
            with av.open(
                file,
                "r",
                options={"max_pixels": str(MOST_PIXELS)},
                container_options={"format_whitelist": FORMATS, "protocol_whitelist": ""},
                **TITLES,
                buffer_size=2**17,
                io_open=_refuse,
            ) as container:
                yield container
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        raise MediaError(
            f"{path} cannot be read as sound or video ({reason}): is it complete, does a player open it?"
        ) from None


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise MediaError(f"{path} is a folder, not a media file")
    if not path.is_file():
        raise MediaError(f"the media file {path} {'is not a file' if path.exists() else 'does not exist'}")
    if not path.stat().st_size:
        raise MediaError(f"{path} is empty (0 bytes): copy or download it again")


def _hide_name(file: io.FileIO, path: Path) -> None:
    """Leave libav the ending alone of the name, which tells formats apart that look alike."""
    ending = path.suffix[1:]
    file.name = f"media.{ending}" if ending.isascii() and ending.isalnum() else "media"


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise MediaError(f"a media file refers to another one, {url!r}, which is not read: join them first")


def find_stream(container: InputContainer, kind: str) -> Stream | None:
    """Return the stream of a kind that a player plays: the default one, else the first; ready to decode."""
    streams = [
        stream
        for stream in container.streams
        if stream.type == kind
        and stream.codec_context is not None
        and not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
    ]
    chosen = min(streams, key=lambda stream: not stream.disposition & Disposition.default, default=None)
    if chosen is not None:
        chosen.codec_context.thread_count = THREADS
        chosen.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    return chosen


def time_unit(stream: Stream) -> Fraction:
    """Return what the time stamps of a stream count, in seconds."""
    return stream.time_base or Fraction(1, av.time_base)


def clock_origin(container: InputContainer) -> Fraction:
    """Return the time stamp in seconds at which the clock of the file starts."""
    return Fraction(container.start_time or 0, av.time_base)


def _length_ms(container: InputContainer, stream: Stream) -> int | None:
    if stream.duration is not None and stream.duration > 0:
        start = (
            0
            if stream.start_time is None
            else stream.start_time * time_unit(stream) - clock_origin(container)
        )
        return round((start + stream.duration * time_unit(stream)) * 1000)
    if container.duration is not None and container.duration > 0:
        return round(Fraction(container.duration, av.time_base) * 1000)
    return None


def _sound_info(container: InputContainer, stream: Any) -> SoundInfo:
    context = stream.codec_context
    return SoundInfo(
        _length_ms(container, stream), context.sample_rate, context.layout.nb_channels, context.codec.name
    )


def _pictures_info(container: InputContainer, stream: Any) -> PicturesInfo:
    context = stream.codec_context
    first = next(decode(stream, read_packets(container, stream, Damage()), Damage()), None)
    rotation = 0 if first is None else first.rotation % 360
    width, height = context.width, context.height
    if rotation in (90, 270):
        width, height = height, width
    rate = stream.average_rate
    return PicturesInfo(
        _length_ms(container, stream),
        width,
        height,
        float(rate) if rate else None,
        rotation,
        context.codec.name,
    )


def read_packets(container: InputContainer, stream: Stream, damage: Damage) -> Iterator[Any]:
    """Yield the packets of a stream, then None or an empty one, which makes the decoder give all it has."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    try:
        yield from container.demux(stream)
    except av.FFmpegError:  # the file breaks off here; what came before is good
        damage.packets += 1
        yield None


def decode(stream: Any, packets: Iterable[Any], damage: Damage) -> Iterator[Any]:
    """Yield the frames of a stream."""
    for packet in packets:
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError:
            damage.packets += 1
            continue
        yield from frames
