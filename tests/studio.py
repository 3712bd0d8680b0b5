"""Makes the recordings that the tests watch and listen to: spoken by espeak-ng, with drawn faces."""

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


def _painted(canvas: npt.NDArray[np.float32], blobs: list[Blob], x: Any, y: Any) -> None:
    """Lay blobs over a canvas (H, W, 4); x, y: (H, W), where its pixels are in the drawing."""
    for blob in blobs:
        radius = np.hypot((x - blob.x) / blob.across, (y - blob.y) / blob.down)
        cover = blob.strength * np.clip((1 - radius) / blob.softness + 0.5, 0, 1)[..., None]
        canvas += cover * (np.array([*blob.colour, 255], np.float32) - canvas)


@cache
def face_patch(size: int, mouth: float, tilt: float, smile: float, seed: int) -> Image:
    """Draw a face on transparent ground: (2 size, 2 size, 4) RGBA, its box in the middle."""
    blobs = _face(mouth, smile, seed)
    span = ((np.arange(2 * size, dtype=np.float32) + 0.5) / size - 1) * BOX
    x, y = np.meshgrid(span, span)
    turn = np.deg2rad(tilt)
    canvas = np.full((2 * size, 2 * size, 4), [*blobs[0].colour, 0], np.float32)
    _painted(canvas, blobs, x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn))
    patch: Image = cv2.GaussianBlur(canvas, (0, 0), max(size / 120, 0.5)).astype(np.uint8)
    patch.setflags(write=False)
    return patch


def paste(picture: Image, patch: Image, centre: tuple[float, float]) -> None:
    """Lay an RGBA patch over an RGB picture, in place; what reaches beyond its edge is cut off."""
    height, width = picture.shape[:2]
    left, top = (round(c - n / 2) for c, n in zip(centre, patch.shape[1::-1], strict=True))
    rows = slice(max(top, 0), max(min(top + len(patch), height), 0))
    columns = slice(max(left, 0), max(min(left + patch.shape[1], width), 0))
    part = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    under = picture[rows, columns]
    cover = part[..., 3:].astype(np.uint16)
    under[:] = (part[..., :3] * cover + under * (255 - cover) + 127) // 255


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
