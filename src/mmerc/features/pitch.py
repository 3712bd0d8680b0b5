"""The pitch of a voice and how periodic it is, from the autocorrelation of the sound.

The method of Boersma, P. (1993), "Accurate short-term analysis of the fundamental frequency and the
harmonics-to-noise ratio of a sampled sound", IFA Proceedings 17, 97-110; the numbers beside the lines are its
equations. The window of 50 ms holds few periods of a voice below 100 Hz: there, ratios beyond 20 dB are off
by a few dB.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft

from mmerc.features.recipe import SAMPLE_RATE

FLOOR_HZ: Final = 60.0
CEILING_HZ: Final = 500.0
STEP: Final = SAMPLE_RATE // 100  # samples from frame to frame
WINDOW: Final = 3 * SAMPLE_RATE // 60  # samples of a frame: three periods of the lowest pitch

CANDIDATES: Final = 10  # periods tried per frame; a high voice repeats after up to 8 multiples of its own
VOICING_THRESHOLD: Final = 0.45  # autocorrelation that an unvoiced frame is worth
SILENCE_THRESHOLD: Final = 0.03  # of the loudest peak of the utterance; quieter frames tend to be unvoiced
OCTAVE_COST: Final = 0.01  # favours the higher of two equally good pitches
OCTAVE_JUMP_COST: Final = 0.35  # per octave between frames
VOICING_COST: Final = 0.14  # of a change between voiced and unvoiced

_SHORTEST_LAG: Final = int(SAMPLE_RATE / CEILING_HZ)
_LONGEST_LAG: Final = int(np.ceil(SAMPLE_RATE / FLOOR_HZ))
_REACH: Final = 32  # samples on either side that interpolate between two
_LAGS: Final = _LONGEST_LAG + _REACH + 1
_FFT: Final = fft.next_fast_len(WINDOW + _LAGS, real=True)  # long enough for no lag to wrap around
_CHUNK: Final = 256  # frames at a time: bounds the memory

Array = npt.NDArray[np.float64]


class Pitch(NamedTuple):
    """The pitch of every frame; frame i is centred on sample i·STEP + WINDOW/2."""

    hertz: Array  # (F,) 0 where unvoiced
    periodicity: Array  # (F,) autocorrelation at the period: the harmonic share of the power; 0 likewise


def frames(samples: Array, length: int) -> Array:
    """Return views (F, length) on samples, centred on the frames that `WINDOW` and `STEP` lay out."""
    count = 1 + (len(samples) - WINDOW) // STEP
    inner = samples[(WINDOW - length) // 2 :]
    return np.lib.stride_tricks.sliding_window_view(inner, length)[::STEP][:count]


def track_pitch(samples: Array) -> Pitch:
    """Follow the pitch from 60 to 500 Hz.

    Args:
        samples: (S,) at `SAMPLE_RATE` without DC offset, S ≥ `WINDOW`
    """
    windows = frames(samples, WINDOW)
    chunks = [_candidates(windows[i : i + _CHUNK]) for i in range(0, len(windows), _CHUNK)]
    hertz, height, peak = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    # Eq. 23: what it is worth to call the frame unvoiced; more so the quieter it is.
    relative = peak / max(float(np.abs(samples).max()), np.finfo(float).tiny)
    silence = relative * (1 + VOICING_THRESHOLD) / SILENCE_THRESHOLD
    unvoiced = VOICING_THRESHOLD + np.maximum(0, 2 - silence)
    # Eq. 24: what each pitch is worth.
    voiced = height - OCTAVE_COST * np.log2(FLOOR_HZ / hertz)
    path = _best_path(np.column_stack([unvoiced, voiced]), np.log2(hertz))
    rows = np.flatnonzero(path)
    found = Pitch(np.zeros(len(path)), np.zeros(len(path)))
    found.hertz[rows] = hertz[rows, path[rows] - 1]
    found.periodicity[rows] = height[rows, path[rows] - 1]
    return found


def _candidates(windows: Array) -> tuple[Array, Array, Array]:
    """Return pitch in Hz and height (-inf: none) of the best maxima (F, K); the frames' peaks (F,)."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    lagged = _autocorrelation(centred)
    near = lagged[:, _SHORTEST_LAG - 1 : _LONGEST_LAG + 2]
    before, here, after = near[:, :-2], near[:, 1:-1], near[:, 2:]
    is_maximum = (here > before) & (here >= after) & (here > VOICING_THRESHOLD / 2)
    # A narrow peak falls between samples: compare heights of parabolas.
    bend = np.where(is_maximum, 2 * here - before - after, 1.0)
    height = here + np.square(after - before) / (8 * bend)
    worth = height - OCTAVE_COST * np.log2(FLOOR_HZ * _CANDIDATE_LAGS / SAMPLE_RATE)
    worth = np.where(is_maximum, worth, -np.inf)
    best = np.sort(np.argpartition(worth, -CANDIDATES, axis=1)[:, -CANDIDATES:], axis=1)
    lag, exact = _interpolate(lagged, best + _SHORTEST_LAG)
    exact = np.where(np.isneginf(np.take_along_axis(worth, best, axis=1)), -np.inf, exact)
    return SAMPLE_RATE / lag, exact, np.abs(centred).max(axis=1)


def _autocorrelation(centred: Array) -> Array:
    """Return the autocorrelation of the sound by lag (F, _LAGS), freed from that of the window (eq. 9)."""
    spectrum = fft.rfft(centred * _HANN, n=_FFT, axis=1)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) * _TAPER
    lagged = fft.irfft(power, n=_FFT, axis=1)[:, :_LAGS]
    normalised: Array = lagged / np.maximum(lagged[:, :1], np.finfo(float).tiny) / _HANN_LAGGED
    return normalised


def _interpolate(lagged: Array, at: npt.NDArray[np.intp]) -> tuple[Array, Array]:
    """Return lag and height of the maxima near whole lags (F, K): windowed sinc (eq. 22), then a parabola."""
    around = np.take_along_axis(lagged[:, None], at[..., None] + np.arange(-_REACH, _REACH + 1), axis=2)
    fine = np.einsum("fkt,to->fko", around, _SINC)  # no BLAS, whose sums may depend on the thread count
    top = fine[..., 1:-1].argmax(axis=2, keepdims=True) + 1
    before, here, after = (np.take_along_axis(fine, top + i, axis=2)[..., 0] for i in (-1, 0, 1))
    bend = np.maximum(2 * here - before - after, 1e-12)
    shift = np.clip((after - before) / (2 * bend), -1, 1)
    height = here + (after - before) * shift / 4
    # Interpolation may exceed what an autocorrelation can be.
    height = np.where(height > 1, 1 / np.maximum(height, 1), height)
    return at + _OFFSETS[top[..., 0]] + shift * (_OFFSETS[1] - _OFFSETS[0]), height


def _best_path(worth: Array, octaves: Array) -> npt.NDArray[np.intp]:
    """Return the best candidate per frame (F,): 0 is unvoiced, then the pitches (F, K) (eq. 26, Viterbi)."""
    count, width = worth.shape
    cost = np.full((count, width, width), VOICING_COST)
    cost[:, 0, 0] = 0
    cost[1:, 1:, 1:] = OCTAVE_JUMP_COST * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    back = np.zeros((count, width), dtype=np.intp)
    total = worth[0]
    for i in range(1, count):
        reached = total[:, None] - cost[i]  # (from, to)
        back[i] = reached.argmax(axis=0)
        total = reached.max(axis=0) + worth[i]
    path = np.empty(count, dtype=np.intp)
    path[-1] = total.argmax()
    for i in range(count - 1, 0, -1):
        path[i - 1] = back[i, path[i]]
    return path


def _sinc_weights(offsets: Array) -> Array:
    """Return how the samples around a lag add up to the value at each offset from it (taps, offsets)."""
    distance = offsets[None] - np.arange(-_REACH, _REACH + 1)[:, None]
    return np.sinc(distance) * (0.5 + 0.5 * np.cos(np.pi * distance / (_REACH + 1)))


_HANN: Final[Array] = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)
_HANN_LAGGED: Final[Array] = np.array(
    [np.sum(_HANN[: WINDOW - i] * _HANN[i:]) / np.sum(_HANN**2) for i in range(_LAGS)]
)
# The short sinc cannot carry what lies next to half the sample rate (section 6 of the paper, step 1).
_TAPER: Final[Array] = np.clip((SAMPLE_RATE / 2 - fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)) / 800, 0, 1)
_OFFSETS: Final[Array] = np.arange(-5, 6) / 8
_SINC: Final[Array] = _sinc_weights(_OFFSETS)
_CANDIDATE_LAGS: Final = np.arange(_SHORTEST_LAG, _LONGEST_LAG + 1)
