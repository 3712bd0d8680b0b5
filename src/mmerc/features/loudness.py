"""How loud sound is, and whether there is any: the one place that says what silence is."""

import numpy as np
import numpy.typing as npt

from mmerc.errors import FeatureError
from mmerc.features.recipe import LOUDNESS_RATE, SAMPLE_RATE, Loudness, Samples

FLOOR_DB = -90.0  # about the noise of 16-bit sound; nothing is called quieter
SILENCE_DB = -60.0  # an utterance below it holds no speech

_BLOCK = SAMPLE_RATE // LOUDNESS_RATE


def decibels(mean_square: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the level of a mean square in dB, not below `FLOOR_DB`; 0 dB is full scale."""
    return 10 * np.log10(np.maximum(mean_square, 10 ** (FLOOR_DB / 10)))


def loudness(samples: Samples, start_ms: int) -> Loudness:
    """Return the RMS of every 20 ms, in dB, without the DC offset of the whole.

    Args:
        samples: (S,) in [-1, 1] at `SAMPLE_RATE`
        start_ms: where they begin in the media file
    """
    power = np.square(centred(samples))
    starts = np.arange(0, len(power), _BLOCK)
    if not len(starts):
        return Loudness(start_ms, np.zeros(0, dtype=np.float32))
    lengths = np.minimum(len(power) - starts, _BLOCK)
    return Loudness(start_ms, decibels(np.add.reduceat(power, starts) / lengths).astype(np.float32))


def why_not_measured(samples: Samples, shortest: int) -> str:
    """Return why these samples say nothing, or an empty text.

    Args:
        samples: (S,) of one utterance
        shortest: how many samples are needed

    Raises:
        FeatureError: not one channel, or not finite: a broken file that no decoder should let through.
    """
    if samples.ndim != 1:
        raise FeatureError(f"sound has the shape {samples.shape}: hand in one channel, (samples,)")
    if not np.isfinite(samples).all():
        raise FeatureError("sound has samples that are not numbers: the file is broken, convert it again")
    if len(samples) < shortest:
        return "too short"
    return "silence" if decibels(np.square(centred(samples)).mean()) < SILENCE_DB else ""


def centred(samples: Samples) -> npt.NDArray[np.float64]:
    """Return the samples about their mean: a DC offset is an accident of the sound card."""
    exact = samples.astype(np.float64)
    return exact - exact.mean() if len(exact) else exact
