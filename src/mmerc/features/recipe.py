"""What a feature recipe is: a way from the sound or the pictures of one utterance to a vector.

An extractor says what it does in `recipe`, a JSON-ready dictionary with the keys `kind` and `version` and
everything else that its values depend on. The corpus and the checkpoint keep it; at prediction the extractor
is built from it again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000  # Hz; all sound is resampled to it, mono
LOUDNESS_RATE = 50  # values per second of the loudness of an utterance
LONGEST_S = 60.0  # of an utterance; what comes later is not measured, so that memory stays bounded

Samples = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]


class Measured(NamedTuple):
    """The vector of one utterance, or why there is none."""

    values: npt.NDArray[np.float32] | None  # (d,)
    reason: str = ""  # such as "silence" or "no face": short, the same for all utterances with that fate


class AudioExtractor(Protocol):
    """Turns the sound of an utterance into a vector."""

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the values depend on."""

    @property
    def width(self) -> int:
        """Length d of the vectors."""

    def __call__(self, samples: Samples) -> Measured:
        """Measure one utterance: `samples` (S,) in [-1, 1] at `SAMPLE_RATE`, of any length, also empty."""


class Loudness(NamedTuple):
    """How loud an utterance is over its time."""

    start_ms: int  # of the utterance, in the media file
    decibels: Samples  # (L,) at `LOUDNESS_RATE` from there on; 0 dB is full scale


class Detector(Protocol):
    """Finds faces."""

    @property
    def recipe(self) -> dict[str, Any]:
        """All that what it finds depends on."""

    @property
    def colour(self) -> bool:
        """Whether it wants (H, W, 3) RGB rather than (H, W) grey."""

    def __call__(self, image: Image) -> npt.NDArray[np.float32]:
        """Return the faces of a picture, largest first: (F, 4) x, y, width, height in pixels."""


class Look(NamedTuple):
    """What an extractor keeps of one picture."""

    time_ms: int  # in the media file
    seen: Any


class VisualExtractor(Protocol):
    """Turns the pictures of an utterance into a vector: looks at each, then describes the utterance.

    Pictures are looked at one by one and not kept, so that memory does not grow with their size.
    """

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the values depend on."""

    @property
    def width(self) -> int:
        """Length d of the vectors."""

    @property
    def frames_per_second(self) -> float:
        """How many pictures a second it wants."""

    @property
    def colour(self) -> bool:
        """Whether pictures are (H, W, 3) RGB rather than (H, W) grey."""

    def look(self, image: Image) -> Any:
        """Keep what is needed of one picture."""

    def describe(self, looks: Sequence[Look], loudness: Loudness | None) -> Measured:
        """Measure one utterance from its pictures in order; `loudness` is None without sound."""


Extractor = AudioExtractor | VisualExtractor
