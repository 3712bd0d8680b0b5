"""What the data doctor measures: is there sound, is it clipped, how much of it is speech, are there faces.

Extractors like those of features, so that they are spread, kept and repeated like them; unlike those they
never call an utterance absent because of what they heard or saw: they report it.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from mmerc.features.haar import HaarDetector
from mmerc.features.loudness import FLOOR_DB, SILENCE_DB, centred, decibels, loudness
from mmerc.features.recipe import SAMPLE_RATE, Detector, Image, Look, Loudness, Measured, Samples

FULL_SCALE: Final = 0.9  # peaks from here on may be cut off; lossy codecs lower them by up to a tenth
FLAT_TOP: Final = 0.9  # of the peak: where the cut tops lie, after codecs and resampling have bent them
DYNAMICS_DB: Final = 30.0  # how far speech falls below its loud parts; what is quieter is a pause


class Heard(NamedTuple):
    """The sound of an utterance in numbers."""

    seconds: float
    level_db: float  # of all of it; 0 dB is full scale
    peak: float  # 1 is full scale
    clipped: float  # share of the samples whose tops were cut off
    active: float  # share of the time in which there is speech, or something as loud


class Health:
    """Measures whether sound can be used: the values of `Heard`.

    Clipping is looked for where it still shows after codecs and resampling have bent the flat tops: within a
    tenth of a peak near full scale. Speech that is not clipped has some 0.1 % of its samples there; of
    speech that was cut at a half of its peak, coded as AAC or MP3 and decoded again, it is 0.9 % to 2.6 %.
    """

    recipe: Final = {"kind": "health", "version": 1}
    width: Final = len(Heard._fields)

    def __call__(self, samples: Samples) -> Measured:
        """Measure one utterance: `samples` (S,) in [-1, 1] at `SAMPLE_RATE`."""
        size = np.abs(samples)
        peak = float(size.max(initial=0.0))
        clipped = float((size >= FLAT_TOP * peak).mean()) if peak >= FULL_SCALE else 0.0
        level = float(decibels(np.square(centred(samples)).mean())) if len(samples) else FLOOR_DB
        heard = Heard(len(samples) / SAMPLE_RATE, level, peak, clipped, _active(samples))
        return Measured(np.array(heard, np.float32))


class Seen(NamedTuple):
    """The faces of an utterance in numbers."""

    pictures: float  # that were looked at
    with_face: float  # of them
    faces: float  # in a picture, on average
    face_height: float  # of the largest face, as a share of the picture


class FaceCount:
    """Counts faces in two pictures a second: the values of `Seen`."""

    frames_per_second: Final = 2.0
    width: Final = len(Seen._fields)

    def __init__(self) -> None:
        self._detector: Detector = HaarDetector()

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the values depend on."""
        return {
            "kind": "face-count",
            "version": 1,
            "frames_per_second": self.frames_per_second,
            "detector": self._detector.recipe,
        }

    @property
    def colour(self) -> bool:
        """Whether it wants pictures (H, W, 3) RGB rather than (H, W) grey."""
        return self._detector.colour

    def look(self, image: Image) -> tuple[float, ...]:
        """Return the heights of the faces in a picture, as shares of it."""
        return tuple(float(box[3]) / image.shape[0] for box in self._detector(image))

    def describe(self, looks: Sequence[Look], loudness: Loudness | None) -> Measured:
        """Count the faces of one utterance."""
        heights = [look.seen for look in looks]
        seen = Seen(
            pictures=len(looks),
            with_face=sum(bool(faces) for faces in heights),
            faces=float(np.mean([len(faces) for faces in heights])) if looks else 0.0,
            face_height=max((height for faces in heights for height in faces), default=0.0),
        )
        return Measured(np.array(seen, np.float32))


def _active(samples: Samples) -> float:
    contour = loudness(samples, 0).decibels
    if not len(contour):
        return 0.0
    threshold = max(SILENCE_DB, float(np.percentile(contour, 95)) - DYNAMICS_DB)
    return float((contour > threshold).mean())
