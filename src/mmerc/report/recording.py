"""The recording of a conversation: where the report finds it, and a small picture of each turn."""

import base64
import mimetypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from mmerc.corpora.recording import PICTURES
from mmerc.errors import MediaError
from mmerc.extras import needed

if TYPE_CHECKING:
    from mmerc.features.recipe import Image

EMBEDDED: Final = 8 * 2**20  # bytes of a recording that is put into the report itself, at most
FRAME: Final = (144, 108)  # pixels that a small picture fits into
QUALITY: Final = 68  # of its JPEG


@dataclass(frozen=True)
class Recording:
    """A recording that plays the moments of a report."""

    path: Path
    address: str  # a reference relative to the report, a file address, or a data URI
    embedded: bool
    thumbnails: bool

    @property
    def seen(self) -> bool:
        """Whether a player needs room for pictures."""
        return self.path.suffix.lower() in PICTURES

    def moment(self, start_ms: int, end_ms: int) -> str:
        """Return where a browser plays a span, with or without a script."""
        if self.embedded:
            return "#player"
        return f"{self.address}#t={start_ms / 1000:g},{end_ms / 1000:g}"

    def pictures(self, spans_ms: Sequence[tuple[int, int]]) -> dict[int, str]:
        """Return a picture of the middle of each span as a data URI, where there is one.

        Raises:
            MediaError: the recording cannot be read.
        """
        if not self.thumbnails or not self.seen:
            return {}
        from mmerc.features.decoding import probe, read_pictures

        if probe(self.path).pictures is None:
            return {}
        middles = [max(0, (start + end) // 2) for start, end in spans_ms]
        shown = {
            time: _data_uri(_small_jpeg(picture), "image/jpeg")
            for time, picture in read_pictures(self.path, sorted(set(middles)), colour=True)
        }
        return {k: shown[time] for k, time in enumerate(middles) if time in shown}


def find_recording(path: Path, folder: Path | None, thumbnails: bool, embed: bool) -> Recording:
    """Return how a report in a folder refers to a recording.

    Args:
        path: an audio or video file
        folder: of the report; None: not known, the recording is named by its full address
        thumbnails: whether to show small pictures
        embed: whether to put the recording into the report

    Raises:
        MediaError: it does not exist, or is too large to be embedded.
    """
    if not path.is_file():
        raise MediaError(f"the recording {path} does not exist: the report would have nothing to play")
    if embed:
        return Recording(path, _embedded(path), True, thumbnails)
    return Recording(path, _address(path, folder), False, thumbnails)


def _embedded(path: Path) -> str:
    size = path.stat().st_size
    if size > EMBEDDED:
        raise MediaError(
            f"{path} has {size / 2**20:.1f} MiB, a report takes in up to {EMBEDDED / 2**20:.0f} MiB: leave "
            "out --embed (embed=True), and keep the recording beside the report"
        )
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return _data_uri(path.read_bytes(), kind)


def _address(path: Path, folder: Path | None) -> str:
    if folder is None:
        return path.resolve().as_uri()
    try:
        relative = Path(os.path.relpath(path.resolve(), folder.resolve()))
    except ValueError:  # another drive
        return path.resolve().as_uri()
    return "./" + quote(relative.as_posix())


def _small_jpeg(picture: "Image") -> bytes:
    with needed("the pictures of a report", "mmerc[media]", MediaError):
        import cv2

    height, width = picture.shape[:2]
    scale = min(FRAME[0] / width, FRAME[1] / height)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    return bytes(jpeg.tobytes())


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
