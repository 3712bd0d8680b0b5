"""The default features of sound: how something is said, in under two hundred numbers with names.

Contours are measured every 10 ms, then described over the utterance: pitch and periodicity over the voiced
frames, loudness and spectrum over the sounding ones, and how fast and with which pauses one speaks.
Everything but `level` and `clipped_share` is the same however loud the recording is.

Sources: Boersma (1993, see `pitch`) for pitch and harmonics-to-noise ratio; de Jong & Wempe (2009), "Praat
script to detect syllable nuclei and measure speech rate automatically", Behavior Research Methods 41, 385-90;
Davis & Mermelstein (1980), "Comparison of parametric representations for monosyllabic word recognition", IEEE
Trans. ASSP 28, 357-366, for the MFCC; Eyben et al. (2016), "The Geneva minimalistic acoustic parameter set
(GeMAPS)", IEEE Trans. Affective Computing 7, 190-202, for what of a spectrum tells of emotion.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft, signal, sparse

from mmerc.features import pitch
from mmerc.features.loudness import FLOOR_DB, SILENCE_DB, centred, decibels, why_not_measured
from mmerc.features.recipe import SAMPLE_RATE, Measured, Samples

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FRAMES_PER_SECOND: Final = SAMPLE_RATE / pitch.STEP
PAUSE_DB: Final = 25.0  # a frame so far below the loud ones is a pause (de Jong & Wempe)
DIP_DB: Final = 2.0  # between two syllables
HIGHEST_HNR: Final = 40.0  # dB; beyond it the method's own error speaks
REFERENCE_HZ: Final = 55.0  # 0 semitones

VOICED: Final = (
    "pitch",  # semitones above 55 Hz
    "hnr",  # harmonics-to-noise ratio, dB
)
STEADY: Final = (  # against the mean of the frame and its two neighbours, as in RAP and APQ3
    "jitter",  # of the period, relative
    "shimmer",  # of the level, dB
)
SOUNDING: Final = (
    "level",  # RMS, dB below full scale
    "centroid",  # Hz
    "spread",  # Hz
    "slope",  # of the spectrum to 5 kHz, dB per kHz
    "flatness",  # geometric by arithmetic mean, dB
    "rolloff",  # Hz below which 85 % of the power lies
    "alpha_ratio",  # power to 1 kHz by power from 1 to 5 kHz, dB
    "hammarberg",  # strongest to 2 kHz by strongest from 2 to 5 kHz, dB
    *(f"mfcc_{i}" for i in range(1, 14)),
)
MOVING: Final = ("flux",)  # distance of spectra from frame to frame: 0 the same, √2 nothing in common
FUNCTIONALS: Final = (
    "mean",
    "sd",
    "p10",  # percentiles
    "p50",
    "p90",
    "range",  # from the 2nd to the 98th percentile
    "rise",  # of the regression line, from the first frame to the last
)
TEMPO: Final = (
    "voiced_share",  # of the frames; 0 says that pitch, hnr, jitter and shimmer are 0 for want of a voice
    "voiced_stretch",  # mean length, s
    "pause_share",  # of the frames
    "pause_stretch",  # mean length, s
    "speaking_rate",  # syllables per second of the utterance
    "articulation_rate",  # syllables per second of its sounding part
    "log_duration",  # natural logarithm of seconds
    "clipped_share",  # of the samples
)
_NAMES: Final = (
    *(f"{contour}_{f}" for contour in (*VOICED, *STEADY, *SOUNDING, *MOVING) for f in FUNCTIONALS),
    *TEMPO,
)


class Spectrum(NamedTuple):
    """What the spectrum of every frame says."""

    sounding: Array  # (F, len(SOUNDING))
    flux: Array  # (F, 1); 0 in the first frame
    syllabic: Array  # (F,) power from 300 to 3300 Hz


class Prosody:
    """Voice, loudness, spectrum and tempo of an utterance: an `AudioExtractor` on numpy and scipy alone.

    Nothing is measured of silence (below -60 dB of full scale, RMS) and of less than 50 ms. Sound without a
    voice has 0 in all that describes a voice, and a `voiced_share` of 0 that says so. Clipped sound is
    measured as it is.
    """

    names: tuple[str, ...] = _NAMES

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the values depend on."""
        return {
            "kind": "prosody",
            "version": 1,
            "sample_rate": SAMPLE_RATE,
            "pitch_hz": [pitch.FLOOR_HZ, pitch.CEILING_HZ],
        }

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return len(self.names)

    def __call__(self, samples: Samples) -> Measured:
        """Measure one utterance (S,); the numbers are in the order of `names`.

        Raises:
            FeatureError: the samples are not one channel of finite numbers.
        """
        reason = why_not_measured(samples, pitch.WINDOW)
        if reason:
            return Measured(None, reason)
        sound = centred(samples)
        spectrum = describe_spectrum(sound)
        level = spectrum.sounding[:, 0]
        sounding = level > max(float(np.percentile(level, 99)) - PAUSE_DB, FLOOR_DB)
        if level.max() < SILENCE_DB or not sounding.any():
            # What sounds lies in the last milliseconds, outside of every frame.
            return Measured(None, "silence")
        voice = pitch.track_pitch(sound)
        voiced = voice.hertz > 0
        parts = [
            *_describe_voice(voice, level),
            functionals(spectrum.sounding, sounding),
            functionals(spectrum.flux, sounding & np.append(False, sounding[:-1])),
        ]
        syllables = count_syllables(spectrum.syllabic, voiced)
        tempo = [
            *_stretches(voiced),
            *_stretches(~sounding),
            syllables * SAMPLE_RATE / len(samples),
            syllables * FRAMES_PER_SECOND / sounding.sum(),
            np.log(len(samples) / SAMPLE_RATE),
            np.mean(np.abs(samples) >= 0.99),
        ]
        return Measured(np.concatenate([*(p.ravel() for p in parts), tempo]).astype(np.float32))


def _describe_voice(voice: pitch.Pitch, level: Array) -> tuple[Array, Array]:
    """Return the functionals of `VOICED` and `STEADY`."""
    voiced = voice.hertz > 0
    hertz = np.where(voiced, voice.hertz, REFERENCE_HZ)
    harmonic = np.clip(voice.periodicity, 0.01, 1 - 1e-9)
    hnr = np.minimum(10 * np.log10(harmonic / (1 - harmonic)), HIGHEST_HNR)  # eq. 4 of Boersma
    period = 1 / hertz
    steady = np.zeros_like(voiced)
    steady[1:-1] = voiced[:-2] & voiced[1:-1] & voiced[2:]
    jitter = np.abs(_off_neighbours(period)) / period
    shimmer = np.abs(_off_neighbours(level))
    return (
        functionals(np.column_stack([12 * np.log2(hertz / REFERENCE_HZ), hnr]), voiced),
        functionals(np.column_stack([jitter, shimmer]), steady),
    )


def _off_neighbours(contour: Array) -> Array:
    """Return how far each value is from the mean of three (F,); a steady rise is none, nor are the ends."""
    off = np.zeros_like(contour)
    off[1:-1] = (2 * contour[1:-1] - contour[:-2] - contour[2:]) / 3
    return off


def functionals(contours: Array, defined: Mask) -> Array:
    """Describe contours (F, C) over the frames that have them: (C, len(FUNCTIONALS)), 0 without any."""
    values = contours[defined]
    if not len(values):
        return np.zeros((contours.shape[1], len(FUNCTIONALS)))
    low, p10, p50, p90, high = np.percentile(values, [2, 10, 50, 90, 98], axis=0)
    mean = values.mean(axis=0)
    time = np.flatnonzero(defined).astype(np.float64)
    time -= time.mean()
    spread = np.square(time).sum()
    per_frame = (time[:, None] * (values - mean)).sum(axis=0) / spread if spread else np.zeros_like(mean)
    rise = per_frame * (time[-1] - time[0])
    return np.column_stack([mean, values.std(axis=0), p10, p50, p90, high - low, rise])


def _stretches(mask: Mask) -> tuple[float, float]:
    """Return the share of frames that are set, and the mean length of a run of them in seconds."""
    runs = np.count_nonzero(mask & ~np.append(False, mask[:-1]))
    return float(mask.mean()), mask.sum() / FRAMES_PER_SECOND / max(runs, 1)


def count_syllables(syllabic: Array, voiced: Mask) -> int:
    """Count the syllable nuclei: voiced peaks of the energy that stand `DIP_DB` above the dips beside them.

    Args:
        syllabic: (F,) power in the band of the vowels
        voiced: (F,)
    """
    padded = np.pad(syllabic, len(_SMOOTHING) // 2, mode="edge")
    smooth = decibels(np.convolve(padded, _SMOOTHING, mode="valid"))
    quiet = float(np.percentile(smooth, 99)) - PAUSE_DB
    # A nucleus may be the first frame or the last: what lies beyond is quieter than any.
    beyond = smooth.min() - 2 * DIP_DB
    peaks, _ = signal.find_peaks(np.pad(smooth, 1, constant_values=beyond), height=quiet, prominence=DIP_DB)
    return int(np.count_nonzero(voiced[peaks - 1]))


def describe_spectrum(sound: Array) -> Spectrum:
    """Measure the 25 ms in the middle of every frame.

    Args:
        sound: (S,) without DC offset, at least one frame long
    """
    windows = pitch.frames(sound, _LENGTH)
    chunks = [_describe_chunk(windows, i, i + _CHUNK) for i in range(0, len(windows), _CHUNK)]
    return Spectrum(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _describe_chunk(windows: Array, start: int, stop: int) -> Spectrum:
    before = max(start - 1, 0)  # the flux needs the frame before
    frames = windows[before:stop] - windows[before:stop].mean(axis=1, keepdims=True)
    transform = fft.rfft(frames * _HANN, n=_FFT, axis=1)[:, _FIRST:]
    power = np.square(transform.real) + np.square(transform.imag)
    total = np.maximum(power.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    share = power / total
    root = np.sqrt(share)
    flux = np.zeros((len(root), 1))
    flux[1:, 0] = np.sqrt(np.square(root[1:] - root[:-1]).sum(axis=1))
    level = decibels(np.square(frames).mean(axis=1))
    sounding = np.column_stack([level, _shape(share), _mfcc(share)])
    syllabic = power[:, _SYLLABIC].sum(axis=1) / _POWER_SCALE
    return Spectrum(*(part[start - before :] for part in (sounding, flux, syllabic)))


def _shape(share: Array) -> Array:
    """Return `SOUNDING` from `centroid` to `hammarberg` (F, 7), from each bin's share of the power."""
    centroid = (share * _HERTZ).sum(axis=1)
    spread = np.sqrt((share * np.square(_HERTZ - centroid[:, None])).sum(axis=1))
    bins = 10 * np.log10(share + _LEAST)
    flatness = bins.mean(axis=1) - 10 * np.log10(share.mean(axis=1) + _LEAST)
    rolloff = _HERTZ[(np.cumsum(share, axis=1) >= 0.85 * share.sum(axis=1, keepdims=True)).argmax(axis=1)]
    low, high = (10 * np.log10(share[:, b].sum(axis=1) + _LEAST) for b in (_TO_1K, _FROM_1_TO_5K))
    hammarberg = bins[:, _TO_2K].max(axis=1) - bins[:, _FROM_2_TO_5K].max(axis=1)
    slope = (bins[:, _TO_5K] * _REGRESSION).sum(axis=1)
    return np.column_stack([centroid, spread, slope, flatness, rolloff, low - high, hammarberg])


def _mfcc(share: Array) -> Array:
    """Return the mel-frequency cepstral coefficients 1 to 13 (F, 13); number 0 is the level once more."""
    bands = np.log((_MEL @ share.T).T + _LEAST)
    coefficients: Array = fft.dct(bands, type=2, norm="ortho", axis=1)[:, 1:14]
    return coefficients


def _mel_filters(count: int) -> Array:
    """Return triangles (count, bins) from 60 Hz to 8 kHz, evenly on the mel scale 2595·log10(1 + f/700)."""
    low, high = 2595 * np.log10(1 + np.array([60, SAMPLE_RATE / 2]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, count + 2) / 2595) - 1)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (_HERTZ - left) / (centre - left), (right - _HERTZ) / (right - centre)
    return np.maximum(np.minimum(rising, falling), 0)


_CHUNK: Final = 512  # frames at a time: bounds the memory
_LENGTH: Final = SAMPLE_RATE // 40
_FFT: Final = 512
_FIRST: Final = 2  # bin at 62.5 Hz; below is no voice, only hum and handling
_LEAST: Final = 1e-8  # share of the power that counts as none: a file without high frequencies has no -300 dB
_HANN: Final[Array] = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(_LENGTH) + 0.5) / _LENGTH)
_POWER_SCALE: Final = _FFT / 2 * np.square(_HANN).sum()  # from the one-sided spectrum to the mean square
_SMOOTHING: Final[Array] = np.hanning(9)[1:-1] / np.hanning(9).sum()  # with the frame's own length, 60 ms
_HERTZ: Final[Array] = fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)[_FIRST:]
_TO_1K: Final = _HERTZ <= 1000
_FROM_1_TO_5K: Final = (_HERTZ > 1000) & (_HERTZ <= 5000)
_TO_2K: Final = _HERTZ <= 2000
_FROM_2_TO_5K: Final = (_HERTZ > 2000) & (_HERTZ <= 5000)
_TO_5K: Final = _HERTZ <= 5000
_SYLLABIC: Final = (_HERTZ >= 300) & (_HERTZ <= 3300)
_KHZ: Final[Array] = _HERTZ[_TO_5K] / 1000 - _HERTZ[_TO_5K].mean() / 1000
_REGRESSION: Final[Array] = _KHZ / np.square(_KHZ).sum()
_MEL: Final = sparse.csr_array(_mel_filters(26))  # sparse sums do not depend on the thread count, BLAS's may
