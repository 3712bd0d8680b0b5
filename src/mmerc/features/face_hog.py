"""The default visual features: how a face looks (HOG) and how it moves. No weights are needed.

Histograms of oriented gradients: Dalal, Triggs (CVPR 2005). Each look keeps the cut-outs of the
faces alone, at most 55 kB; which face speaks is decided when the utterance is over.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mmerc.features.faces import (
    REGIONS,
    Face,
    FaceFinder,
    Floats,
    agreement,
    changes,
    interval_ms,
    mouth_motion,
    speaking_face,
)
from mmerc.features.haar import cv2
from mmerc.features.recipe import Image, Look, Loudness, Measured

SIZE = 64  # of a face, in pixels
CELL = 16
BINS = 9  # directions, without sign
BLOCKS = SIZE // CELL - 1  # along a side; a block is 2 × 2 cells, normalised together
MOTION_GRID = 4  # along a side


class Picture(NamedTuple):
    """What is kept of a picture."""

    height: int
    faces: list[Face]


class FaceHog:
    """Describes the face that speaks: its appearance, its motion, and its place in the pictures.

    * appearance: the mean over the looks of the HOG of the upright face, and the sd over the looks for each
      cell of each block; brightness and contrast of the picture change them little;
    * motion: how much the face changes between successive looks (`faces.changes`), on a grid and in the
      regions of brows, eyes and mouth, and how well the mouth agrees with the sound;
    * the head: speed in face sizes a second, across, down and in all, and growth (|ln| a second);
    * the picture: size of the face in it, how many looks there are and how many show the face, how many faces
      they show.

    With one look nothing is known of motion: its features are 0, and `looks` tells.
    """

    frames_per_second: Final = 5.0

    def __init__(self, finder: FaceFinder | None = None) -> None:
        self.finder = finder or FaceFinder()
        self.names: tuple[str, ...] = _names()

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the values depend on."""
        return {
            "kind": "face-hog",
            "version": 1,
            "frames_per_second": self.frames_per_second,
            "size": SIZE,
            "cell": CELL,
            "bins": BINS,
            "finder": self.finder.recipe,
        }

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return len(self.names)

    @property
    def colour(self) -> bool:
        """Whether it wants pictures (H, W, 3) RGB rather than (H, W) grey."""
        return self.finder.colour

    def look(self, image: Image) -> Picture:
        """Keep the faces of a picture."""
        return Picture(image.shape[0], self.finder(image))

    def describe(self, looks: Sequence[Look], loudness: Loudness | None) -> Measured:
        """Measure one utterance from its pictures in order; `loudness` is None without sound."""
        if not looks:
            return Measured(None, "no picture")
        track = speaking_face([Look(look.time_ms, look.seen.faces) for look in looks], loudness)
        if not track:
            return Measured(None, "no face")
        parts = (_appearance(track), _motion(track, loudness, interval_ms(looks)), _place(track, looks))
        return Measured(np.concatenate(parts).astype(np.float32))


def _names() -> tuple[str, ...]:
    block = [f"hog_block{y}{x}" for y in range(BLOCKS) for x in range(BLOCKS)]
    cells = [f"{name}_cell{y}{x}" for name in block for x in range(2) for y in range(2)]  # OpenCV's order
    return (
        *(f"{cell}_{180 * k // BINS}deg_mean" for cell in cells for k in range(BINS)),
        *(f"{cell}_sd" for cell in cells),
        *(f"motion_grid{y}{x}" for y in range(MOTION_GRID) for x in range(MOTION_GRID)),
        *(f"{region}_motion_{what}" for region in REGIONS for what in ("mean", "sd", "max")),
        "mouth_over_face_motion",
        "mouth_sound_agreement",
        *(f"head_{way}_{what}" for way in ("across", "down", "speed", "growth") for what in ("mean", "max")),
        "face_height",
        "face_height_sd",
        "looks",
        "looks_with_face",
        "faces",
    )


@cache
def _hog() -> Any:
    """Return OpenCV's descriptor, without its gamma correction, which would let brightness count."""
    window, block, cell = ((side, side) for side in (SIZE, 2 * CELL, CELL))
    return cv2.HOGDescriptor(window, block, cell, cell, BINS, _gammaCorrection=False)


def _appearance(track: Sequence[Look]) -> Floats:
    """Return the mean of HOG and its sd per cell: (324 + 36,)."""
    hog = np.stack([_hog().compute(_grey(look.seen.crop)).ravel() for look in track])
    spread = hog.std(0).reshape(-1, BINS).mean(1)
    return np.concatenate([hog.mean(0), spread])


def _grey(crop: Image) -> Image:
    grey = crop if crop.ndim == 2 else cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    if grey.shape == (SIZE, SIZE):
        return np.ascontiguousarray(grey)
    face: Image = cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return face


def _motion(track: Sequence[Look], loudness: Loudness | None, interval: float) -> Floats:
    """Return how the face changes and the head moves: zeros where no look follows another."""
    later, change = changes(track, interval)
    if not len(later):
        return np.zeros(MOTION_GRID**2 + 3 * len(REGIONS) + 2 + 8, np.float32)
    side = change.shape[1] // MOTION_GRID
    grid = change.mean(0).reshape(MOTION_GRID, side, MOTION_GRID, side).mean((1, 3)).ravel()
    regions = [change[:, *region].mean((1, 2)) for region in REGIONS.values()]
    values = [f(region) for region in regions for f in (np.mean, np.std, np.max)]
    values += [mouth_motion(change).mean(), agreement(track, loudness, interval)]
    return np.concatenate([grid, values, _head(track, later)])


def _head(track: Sequence[Look], later: npt.NDArray[np.intp]) -> Floats:
    """Return mean and maximum of the head's movements, per second: across, down, in all, and growth: (8,)."""
    boxes = np.stack([look.seen.box for look in track]).astype(np.float64)
    seconds = np.diff([look.time_ms for look in track])[later - 1] / 1000
    size = np.maximum(np.sqrt(boxes[:, 2] * boxes[:, 3]), 1e-6)
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    step = np.abs(centre[later] - centre[later - 1]) / ((size[later] + size[later - 1]) / 2)[:, None]
    growth = np.abs(np.log(size[later] / size[later - 1]))
    ways = np.stack([*step.T, np.hypot(*step.T), growth]) / seconds
    return np.stack([ways.mean(1), ways.max(1)], axis=1).ravel().astype(np.float32)


def _place(track: Sequence[Look], looks: Sequence[Look]) -> Floats:
    """Return the size of the face in the picture, and what is seen how often: (5,)."""
    heights = {look.time_ms: look.seen.height for look in looks}
    sizes = np.array([look.seen.box[3] / heights[look.time_ms] for look in track])
    faces = np.mean([len(look.seen.faces) for look in looks])
    return np.array(
        [sizes.mean(), sizes.std(), np.log1p(len(looks)), len(track) / len(looks), faces], np.float32
    )
