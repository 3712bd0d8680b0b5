"""Who speaks and is seen in the recordings of the tests: the voices of espeak-ng, and drawn faces."""

import _ctypes
import ctypes
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import resample_poly

from mmerc.features.recipe import SAMPLE_RATE, Image, Samples

SYNCHRONOUS, UTF8, RATE, PITCH = 2, 1, 1, 3  # of espeak's speak_lib.h
ESPEAK_RATE = 22_050
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int16), ctypes.c_int, ctypes.c_void_p)
DRAWN = 128  # pixels; the size that faces are drawn at
BOX = 1.35  # side of OpenCV's box around a face, in widths of the face


def require_voice() -> Any:
    """Return the package that brings espeak-ng; skip the test where it is not installed."""
    return pytest.importorskip("espeakng_loader", reason="espeakng-loader speaks the test recordings")


@cache
def speak(text: str, *, pitch: int = 50, words_per_minute: int = 175, voice: str = "en") -> Samples:
    """Say a text: samples (S,) at 16 kHz, from the first sound to the last.

    The same words are the same samples whatever was said before: espeak-ng keeps the state of its
    oscillators, so that the library is loaded anew for each text (5 ms).

    Args:
        text: what to say
        pitch: 0 to 99; 50 is about 100 Hz for the voice `en`
        words_per_minute: 80 to 450
        voice: a language or voice of espeak-ng
    """
    package = require_voice()
    chunks = []

    def keep(samples: Any, count: int, _events: Any) -> int:
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    callback = CALLBACK(keep)  # espeak-ng does not hold it: this name does
    library = ctypes.CDLL(str(package.get_library_path()))
    try:
        rate = library.espeak_Initialize(SYNCHRONOUS, 0, str(package.get_data_path()).encode(), 0)
        assert rate == ESPEAK_RATE, "espeak-ng did not start"
        library.espeak_SetSynthCallback(callback)
        assert library.espeak_SetVoiceByName(voice.encode()) == 0, f"espeak-ng has no voice {voice!r}"
        library.espeak_SetParameter(RATE, words_per_minute, 0)
        library.espeak_SetParameter(PITCH, pitch, 0)
        said = text.encode()
        library.espeak_Synth(said, ctypes.c_size_t(len(said) + 1), 0, 0, 0, UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    loud = np.concatenate([np.zeros(0, np.int16), *chunks]).astype(np.float32) / 2**15
    samples = resample_poly(loud, SAMPLE_RATE // 50, ESPEAK_RATE // 50).astype(np.float32)
    heard = np.flatnonzero(np.abs(samples) > 1e-3)
    spoken: Samples = samples[heard[0] : heard[-1] + 1] if len(heard) else samples[:0]
    spoken.setflags(write=False)  # it is shared by all who ask
    return spoken


class Blob(NamedTuple):
    """A soft ellipse of a drawing; a face is about 1 across and 1.3 down, with (0, 0) below its eyes."""

    x: float
    y: float
    across: float
    down: float
    colour: tuple[float, float, float]
    softness: float = 0.25
    strength: float = 1.0


def _mirrored(*blobs: Blob) -> list[Blob]:
    return [side for blob in blobs for side in (blob, blob._replace(x=-blob.x))]


def _face(mouth: float, smile: float, seed: int) -> list[Blob]:
    """The parts of a face, from back to front."""
    chance = np.random.default_rng(seed)
    skin = np.array([224, 178, 150]) * chance.uniform(0.85, 1.05) + chance.uniform(-8, 8, 3)
    hair = tuple(np.array([60, 42, 30]) * chance.uniform(0.4, 1.3))
    apart, brow, wide = chance.uniform([0.195, 0.245, 0.46], [0.225, 0.27, 0.5])

    def shade(factor: float) -> tuple[float, float, float]:
        return tuple(np.clip(skin * factor, 0, 255))

    gap = 0.012 + 0.1 * mouth
    lips = (170.0, 82.0, 80.0)
    corners = 0.16 + 0.05 * smile
    return [
        Blob(0, -0.12, wide + 0.1, 0.72, hair, 0.1),  # behind the head
        Blob(0, 0.62, 0.22, 0.35, shade(0.75), 0.2),  # neck
        Blob(0, 0.05, wide, 0.66, shade(0.95), 0.1),
        *_mirrored(Blob(wide - 0.02, 0.1, 0.1, 0.5, shade(0.7), 1.0, 0.7)),  # the head is round
        Blob(0, -0.36, 0.34, 0.14, shade(1.12), 0.9, 0.9),  # forehead
        Blob(0, -0.63, wide - 0.03, 0.15, hair, 0.3),  # fringe
        *_mirrored(
            Blob(apart, -0.15, 0.17, 0.11, shade(0.5), 0.9, 0.9),  # sockets
            Blob(apart, -brow, 0.15, 0.03, hair, 0.5),  # brows
            Blob(apart, -0.14, 0.085, 0.035, (225, 220, 215), 0.4),
            Blob(apart, -0.14, 0.04, 0.042, (35, 25, 20), 0.3),  # iris
            Blob(apart, -0.18, 0.1, 0.016, (50, 35, 30), 0.6),  # lid
            Blob(0.26, 0.1, 0.15, 0.12, shade(1.14), 0.9, 0.9),  # cheeks
            Blob(0.1, 0.1, 0.03, 0.1, shade(0.75), 1.0, 0.6),  # sides of the nose
        ),
        Blob(0, -0.06, 0.05, 0.26, shade(1.16), 0.8),  # bridge
        *_mirrored(Blob(0.05, 0.155, 0.03, 0.018, (70, 40, 35), 0.6)),  # nostrils
        *_mirrored(Blob(corners, 0.33 - 0.05 * smile, 0.05, 0.022, (120, 60, 55), 0.8)),
        Blob(0, 0.315, corners, 0.035, lips, 0.4),  # upper lip
        Blob(0, 0.345 + 1.6 * gap, corners * 0.85, 0.04, lips, 0.4),  # lower lip falls
        Blob(0, 0.335 + 0.8 * gap, corners * 0.85, gap, (45, 15, 15), 0.3),
        Blob(0, 0.44 + 1.7 * gap, 0.12, 0.02, shade(0.7), 1.0, 0.6),  # below the lip
        Blob(0, 0.55 + gap, 0.14, 0.06, shade(1.08), 0.9, 0.7),  # chin
    ]


@cache
def _drawing(mouth: float, smile: float, seed: int) -> npt.NDArray[np.float32]:
    """Draw a face upright on transparent ground: (2 DRAWN, 2 DRAWN, 4) RGBA, its box in the middle."""
    blobs = _face(mouth, smile, seed)
    at = ((np.arange(2 * DRAWN, dtype=np.float32) + 0.5) / DRAWN - 1) * BOX
    canvas = np.full((2 * DRAWN, 2 * DRAWN, 4), [*blobs[0].colour, 0], np.float32)
    for blob in blobs:
        rows, columns = (
            slice(*np.searchsorted(at, [middle - 1.6 * reach, middle + 1.6 * reach]))
            for middle, reach in ((blob.y, blob.down), (blob.x, blob.across))
        )
        x, y = (at[columns] - blob.x) / blob.across, (at[rows, None] - blob.y) / blob.down
        cover = blob.strength * np.clip((1 - np.hypot(x, y)) / blob.softness + 0.5, 0, 1)[..., None]
        part = canvas[rows, columns]
        part += cover * (np.array([*blob.colour, 255], np.float32) - part)
    soft: npt.NDArray[np.float32] = cv2.GaussianBlur(canvas, (0, 0), 1)
    return soft


class Patch(NamedTuple):
    """A cut-out picture."""

    colours: Image  # (H, W, 3)
    cover: npt.NDArray[np.float32]  # (H, W), 0 to 1


@cache
def face_patch(size: int, mouth: float, tilt: float, smile: float, seed: int) -> Patch:
    """Cut out a face; its box is the inner half."""
    move = cv2.getRotationMatrix2D((DRAWN - 0.5, DRAWN - 0.5), -tilt, size / DRAWN)
    move[:, 2] += size - DRAWN
    drawing = _drawing(mouth, smile, seed)
    ground = (*(float(part) for part in drawing[0, 0, :3]), 0.0)
    turned = cv2.warpAffine(drawing, move, (2 * size, 2 * size), borderValue=ground)
    return Patch(turned[..., :3].astype(np.uint8), turned[..., 3] / np.float32(255))


def paste(picture: Image, patch: Patch, centre: tuple[float, float]) -> None:
    """Lay a patch over an RGB picture, in place; what reaches beyond its edge is cut off."""
    height, width = patch.cover.shape
    left, top = round(centre[0] - width / 2), round(centre[1] - height / 2)
    under = picture[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    rows = slice(max(-top, 0), max(-top, 0) + under.shape[0])
    columns = slice(max(-left, 0), max(-left, 0) + under.shape[1])
    cover = patch.cover[rows, columns]
    if cover.size:
        under[:] = cv2.blendLinear(patch.colours[rows, columns], under, cover, 1 - cover)


@cache
def backdrop(width: int, height: int) -> Image:
    """Return a plain wall, lighter above: (H, W, 3), with nothing in it that looks like a face."""
    light = np.linspace(150, 105, height, dtype=np.float32)[:, None, None] * np.array([0.9, 1.0, 1.08])
    wall: Image = np.broadcast_to(light, (height, width, 3)).astype(np.uint8)
    wall.setflags(write=False)
    return wall


def draw_face(
    width: int,
    height: int,
    *,
    centre: tuple[float, float],
    size: int,
    mouth: float = 0.0,
    tilt: float = 0.0,
    smile: float = 0.0,
    seed: int = 0,
) -> Image:
    """Draw a face before a wall: (H, W, 3) RGB. OpenCV's frontal cascade finds it.

    Args:
        width, height: of the picture
        centre: x, y of the middle of the face's box
        size: side of the box that OpenCV puts around the face
        mouth: 0 (closed) to 1 (wide open)
        tilt: degrees, clockwise
        smile: 0 to 1
        seed: whose face
    """
    picture = backdrop(width, height).copy()
    paste(picture, face_patch(size, mouth, tilt, smile, seed), centre)
    return picture
