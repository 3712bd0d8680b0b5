import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actors import speak
from mmerc.errors import FeatureError
from mmerc.features import pitch
from mmerc.features.prosody import FUNCTIONALS, Prosody, describe_spectrum, functionals
from mmerc.features.recipe import Samples
from prosody_loops import pitch_by_loops, spectrum_by_loops

PROSODY = Prosody()
RNG = np.random.default_rng(0)
VOICE = ("pitch", "hnr", "jitter", "shimmer")


def measure(samples: Any) -> dict[str, float]:
    measured = PROSODY(np.asarray(samples, dtype=np.float32))
    assert measured.values is not None, measured.reason
    assert measured.values.dtype == np.float32
    assert np.isfinite(measured.values).all()
    return dict(zip(PROSODY.names, measured.values.astype(float), strict=True))


def buzz(hertz: Any, seconds: float = 1.0) -> np.ndarray:
    """Return a tone with falling harmonics; `hertz` may change over time."""
    hertz = np.broadcast_to(hertz, round(16000 * seconds))
    phase = 2 * np.pi * np.cumsum(hertz) / 16000
    harmonics = range(1, int(7900 / hertz.max()) + 1)
    tone = sum(np.cos(h * phase + h * h) / h for h in harmonics)
    return 0.5 * tone / np.abs(tone).max()


def clicks(hertz: float) -> np.ndarray:
    """Return a tone whose harmonics are all equally strong."""
    phase = 2 * np.pi * hertz * seconds(1)
    return sum(np.cos(h * phase) for h in range(1, int(7900 / hertz) + 1)) * hertz / 7900


def soft_pulses(hertz: float) -> np.ndarray:
    return pulses(np.arange(0.005, 1, 1 / hertz), length=1)


def seconds(length: float) -> np.ndarray:
    return np.arange(round(16000 * length)) / 16000


def pulses(times: np.ndarray, heights: Any = 1.0, length: float = 3.0) -> np.ndarray:
    """Return soft pulses at any times, also between samples."""
    samples = np.zeros(round(16000 * length))
    for time, height in zip(times, np.broadcast_to(heights, len(times)), strict=True):
        around = int(time * 16000) + np.arange(-16, 17)
        around = around[(around >= 0) & (around < len(samples))]
        away = around - time * 16000
        samples[around] += 0.5 * height * np.sinc(away / 2) * (0.5 + 0.5 * np.cos(np.pi * away / 18))
    return samples


def mixed() -> np.ndarray:
    """Return a gliding voice, a hiss and a pause."""
    voice = buzz(np.linspace(110, 180, 4800), 0.3) + 0.01 * RNG.standard_normal(4800)
    sound = np.concatenate([voice, 0.1 * RNG.standard_normal(1600), 1e-4 * RNG.standard_normal(1600)])
    return sound - sound.mean()


def test_names_are_unique_and_fit_the_width() -> None:
    assert PROSODY.width == len(PROSODY.names) == len(set(PROSODY.names)) == 190
    assert len(measure(buzz(120))) == 190


def test_recipe() -> None:
    assert PROSODY.recipe == {
        "kind": "prosody",
        "version": 1,
        "sample_rate": 16000,
        "pitch_hz": [60.0, 500.0],
    }


def test_pitch_follows_the_plain_loops() -> None:
    sound = mixed()
    hertz, periodicity = pitch_by_loops(sound)
    found = pitch.track_pitch(sound)
    assert 0.3 < np.mean(found.hertz > 0) < 0.8
    np.testing.assert_allclose(found.hertz, hertz, rtol=1e-5)
    np.testing.assert_allclose(found.periodicity, periodicity, rtol=1e-5)


def test_spectrum_follows_the_plain_loops() -> None:
    sound = mixed()
    rows, flux, syllabic = spectrum_by_loops(sound)
    found = describe_spectrum(sound)
    np.testing.assert_allclose(found.sounding, rows, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.flux[:, 0], flux, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.syllabic, syllabic, rtol=1e-5)


def test_frames_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.tile(mixed(), 2)
    whole = PROSODY(samples.astype(np.float32)).values
    monkeypatch.setattr("mmerc.features.pitch._CHUNK", 7)
    monkeypatch.setattr("mmerc.features.prosody._CHUNK", 7)
    np.testing.assert_allclose(PROSODY(samples.astype(np.float32)).values, whole, rtol=1e-5, atol=1e-6)


def test_functionals_describe_what_is_defined() -> None:
    contour = np.cumsum(RNG.standard_normal((40, 2)), axis=0)
    defined = RNG.random(40) < 0.6
    time, values = np.flatnonzero(defined), contour[defined, 1]
    slope = np.polyfit(time, values, 1)[0]
    expected = {
        "mean": values.mean(),
        "sd": values.std(),
        "p10": np.percentile(values, 10),
        "p50": np.median(values),
        "p90": np.percentile(values, 90),
        "range": np.percentile(values, 98) - np.percentile(values, 2),
        "rise": slope * (time[-1] - time[0]),
    }
    np.testing.assert_allclose(functionals(contour, defined)[1], [expected[f] for f in FUNCTIONALS])
    one = functionals(contour, np.arange(40) == 3)[0]
    v = contour[3, 0]
    np.testing.assert_allclose(one, [v, 0, v, v, v, 0, 0], atol=1e-12)
    assert not functionals(contour, np.zeros(40, dtype=bool)).any()


@pytest.mark.parametrize("hertz", [60, 75, 99.5, 150, 201.7, 300, 333.3, 400, 450])
@pytest.mark.parametrize("make", [buzz, clicks, soft_pulses])
def test_pitch_is_within_1_percent(hertz: float, make: Callable[[float], np.ndarray]) -> None:
    sound = make(hertz)
    found, periodicity = pitch.track_pitch(sound - sound.mean())
    assert np.mean(found > 0) > 0.95
    np.testing.assert_allclose(found[found > 0], hertz, rtol=0.01)
    assert periodicity.min() >= 0
    assert periodicity.max() <= 1


def test_vibrato_and_glide_are_followed() -> None:
    time = seconds(2)
    vibrato = measure(buzz(200 * 2 ** (np.sin(2 * np.pi * 5 * time) / 12), 2))
    assert vibrato["pitch_mean"] == pytest.approx(12 * np.log2(200 / 55), abs=0.1)
    assert vibrato["pitch_sd"] == pytest.approx(1 / np.sqrt(2), rel=0.1)
    assert abs(vibrato["pitch_rise"]) < 0.3
    glide = measure(buzz(100 * 2 ** (time / 2), 2))
    assert glide["pitch_rise"] == pytest.approx(12 * 1.95 / 2, rel=0.02)  # frames' centres span 1.95 s
    assert glide["jitter_mean"] < 1e-3  # a glide is none


def test_jitter_and_shimmer_are_ordered() -> None:
    noise = np.random.default_rng(1).standard_normal(300)
    jitter = [
        measure(pulses(np.cumsum((1 + j * noise) / 120)))["jitter_mean"] for j in (0, 0.005, 0.01, 0.02)
    ]
    assert jitter == sorted(jitter)
    assert jitter[3] > 2 * jitter[1] > 20 * jitter[0]
    even = np.arange(0.01, 2.5, 1 / 120)
    shimmer = [
        measure(pulses(even, np.exp(s * noise[: len(even)])))["shimmer_mean"] for s in (0, 0.05, 0.1, 0.2)
    ]
    assert shimmer == sorted(shimmer)
    assert shimmer[3] > 2 * shimmer[1] > 10 * shimmer[0]


@pytest.mark.parametrize("ratio", [5, 10, 15, 20, 25])
@pytest.mark.parametrize("hertz", [120, 150, 300])
def test_harmonics_to_noise_ratio(hertz: float, ratio: float) -> None:
    tone, noise = buzz(hertz, 2), np.random.default_rng(2).standard_normal(32000)
    noise *= np.sqrt(np.mean(tone**2) / np.mean(noise**2) / 10 ** (ratio / 10))
    assert measure(0.5 * (tone + noise))["hnr_mean"] == pytest.approx(ratio, abs=1.5)


@pytest.mark.parametrize("rate", [3, 5])
def test_syllables_are_counted(rate: int) -> None:
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * rate * seconds(4))
    voice = (buzz(140, 4) + 0.05 * RNG.standard_normal(64000)) * swell
    assert measure(voice)["speaking_rate"] == pytest.approx(rate, rel=0.1)
    assert measure(0.3 * RNG.standard_normal(64000) * swell)["speaking_rate"] == 0  # hiss has no nuclei


def test_a_steady_tone_is_one_syllable() -> None:
    assert measure(buzz(140, 2))["speaking_rate"] == pytest.approx(0.5)


def test_pauses_are_measured() -> None:
    hush = 1e-4 * RNG.standard_normal(8000)
    found = measure(np.concatenate([buzz(140, 1), hush, buzz(140, 1), hush]))
    assert found["pause_share"] == pytest.approx(1 / 3, abs=0.03)
    assert found["pause_stretch"] == pytest.approx(0.5, abs=0.05)
    assert found["voiced_stretch"] == pytest.approx(1, abs=0.05)
    assert found["articulation_rate"] == pytest.approx(1.5 * found["speaking_rate"], rel=0.05)
    assert found["log_duration"] == pytest.approx(np.log(3))


def test_spoken_voices_are_ordered_by_pitch_and_rate() -> None:
    text = "Nobody told me about it, and I wonder why you did not."
    found = {(p, r): measure(speak(text, pitch=p, words_per_minute=r)) for p in (30, 80) for r in (120, 240)}
    for rate in (120, 240):
        assert found[80, rate]["pitch_p50"] - found[30, rate]["pitch_p50"] == pytest.approx(8, abs=1.5)
    for height in (30, 80):
        slow, fast = found[height, 120]["speaking_rate"], found[height, 240]["speaking_rate"]
        assert fast == pytest.approx(2 * slow, rel=0.15)
    for voice in found.values():
        assert 0.5 < voice["voiced_share"] < 0.95


def test_a_pause_is_25_db_below_the_loud_frames() -> None:
    for drop, share in ((22, 0), (28, 0.5)):
        quieter = 10 ** (-drop / 20) * buzz(140, 1)
        assert measure(np.concatenate([buzz(140, 1), quieter]))["pause_share"] == pytest.approx(
            share, abs=0.03
        )


def test_flux_is_not_taken_across_pauses() -> None:
    sound = np.concatenate([mixed(), mixed()])
    spectrum = describe_spectrum(sound - sound.mean())
    level = spectrum.sounding[:, 0]
    loud = level > np.percentile(level, 99) - 25
    flux = [spectrum.flux[i, 0] for i in range(1, len(loud)) if loud[i] and loud[i - 1]]
    assert measure(sound)["flux_mean"] == pytest.approx(np.mean(flux), rel=1e-5)


def test_noise_is_not_voiced() -> None:
    found = measure(0.1 * np.random.default_rng(3).standard_normal(160000))
    assert found["voiced_share"] < 0.005
    silent = measure(0.1 * np.random.default_rng(4).standard_normal(1600))
    assert silent["voiced_share"] == silent["voiced_stretch"] == 0
    assert all(silent[f"{c}_{f}"] == 0 for c in VOICE for f in FUNCTIONALS)


def test_bright_sound_has_a_bright_spectrum() -> None:
    dark, bright = measure(buzz(110)), measure(np.diff(buzz(110)))
    for name in ("centroid_mean", "spread_mean", "slope_mean", "flatness_mean", "rolloff_mean"):
        assert dark[name] < bright[name]
    for name in ("alpha_ratio_mean", "hammarberg_mean", "mfcc_1_mean"):
        assert dark[name] > bright[name]
    assert measure(RNG.standard_normal(16000) * 0.1)["flux_mean"] > 10 * dark["flux_mean"]


@pytest.mark.parametrize("gain", [0.03, 0.5])
def test_gain_and_offset_change_the_level_alone(gain: float) -> None:
    voice = np.concatenate([mixed(), mixed()])
    plain, changed = measure(voice), measure(gain * voice + 0.1)
    level = {"level_mean", "level_p10", "level_p50", "level_p90"}
    for name in set(PROSODY.names) - {"clipped_share"}:
        shift = 20 * np.log10(gain) if name in level else 0
        assert changed[name] == pytest.approx(plain[name] + shift, rel=1e-3, abs=1e-3), name


def test_clipped_sound_is_measured() -> None:
    square = measure(np.sign(buzz(120)))
    assert square["clipped_share"] > 0.99
    assert square["pitch_p50"] == pytest.approx(12 * np.log2(120 / 55), abs=0.05)
    assert measure(buzz(120))["clipped_share"] == 0


@pytest.mark.parametrize("length", [0, 1, 399, 799])
def test_less_than_50_ms_is_too_short(length: int) -> None:
    assert PROSODY(np.ones(length, dtype=np.float32)) == (None, "too short")


def test_50_ms_are_enough() -> None:
    found = measure(buzz(200, 0.05))
    assert found["voiced_share"] == 1
    assert found["pitch_mean"] == pytest.approx(12 * np.log2(200 / 55), abs=0.2)


def test_silence_is_not_measured() -> None:
    assert PROSODY(np.zeros(16000, dtype=np.float32)) == (None, "silence")
    assert PROSODY(np.full(16000, -0.7, dtype=np.float32)) == (None, "silence")
    assert PROSODY((1e-3 * buzz(120)).astype(np.float32)) == (None, "silence")
    # What sounds comes after the last whole frame.
    assert PROSODY(np.append(np.zeros(800), [1, -1]).astype(np.float32)) == (None, "silence")
    assert PROSODY(np.append(5e-4 * buzz(120, 0.05), [1, -1]).astype(np.float32)) == (None, "silence")


def test_what_is_not_a_number_is_an_error() -> None:
    with pytest.raises(FeatureError):
        PROSODY(np.full(16000, np.nan, dtype=np.float32))


@pytest.mark.slow
def test_the_same_bits_again_and_in_another_process() -> None:
    samples = mixed().astype(np.float32)
    first = PROSODY(samples).values
    assert first is not None
    measure(buzz(300))
    again = PROSODY(
        np.concatenate([np.zeros(1, dtype=np.float32), samples])[1:]
    ).values  # elsewhere in memory
    np.testing.assert_array_equal(first, again)
    code = (
        "import sys, numpy as np; from mmerc.features.prosody import Prosody;"
        "samples = np.frombuffer(sys.stdin.buffer.read(), dtype=np.float32);"
        "sys.stdout.buffer.write(Prosody()(samples).values.tobytes())"
    )
    environment = {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=samples.tobytes(),
        capture_output=True,
        check=True,
        env=environment,
    )
    assert done.stdout == first.tobytes()


SPARSE = arrays(np.float32, st.integers(0, 6000), elements=st.floats(-1, 1, width=32), fill=st.just(0))
DENSE = st.builds(
    lambda seed, length, gain, step: (
        gain * np.repeat(np.random.default_rng(seed).uniform(-1, 1, length), step)
    ).astype(np.float32),
    st.integers(0, 1000), st.integers(1, 6000), st.floats(0, 1), st.sampled_from([1, 1, 7, 1000]),
)  # fmt: skip


@settings(max_examples=60)
@given(SPARSE | DENSE)
def test_anything_is_measured_or_has_a_reason(samples: Samples) -> None:
    measured = PROSODY(samples[:20000])
    if measured.values is None:
        assert measured.reason in {"silence", "too short"}
    else:
        assert measured.values.shape == (190,)
        assert np.isfinite(measured.values).all()
