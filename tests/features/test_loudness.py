import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmerc.errors import FeatureError
from mmerc.features.loudness import loudness, why_not_measured


def test_loudness_is_the_rms_of_every_20_ms() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    about_mean = samples.astype(float) - samples.astype(float).mean()
    expected = [10 * np.log10(np.mean(about_mean[i : i + 320] ** 2)) for i in range(0, 1000, 320)]
    found = loudness(samples, start_ms=1234)
    assert found.start_ms == 1234
    assert found.decibels.dtype == np.float32
    np.testing.assert_allclose(found.decibels, expected, rtol=1e-6)


def test_full_scale_is_0_db_and_nothing_is_below_the_floor() -> None:
    square = np.tile(np.float32([1, -1]), 480)
    np.testing.assert_allclose(loudness(square, 0).decibels, 0, atol=1e-5)
    np.testing.assert_array_equal(loudness(np.zeros(321, dtype=np.float32), 0).decibels, [-90, -90])
    assert loudness(np.zeros(0, dtype=np.float32), 5).decibels.shape == (0,)


@given(arrays(np.float32, st.integers(0, 1500), elements=st.floats(-1, 1, width=32)))
def test_loudness_is_finite_and_covers_all(samples: np.ndarray) -> None:
    found = loudness(samples, 0).decibels
    assert len(found) == -(-len(samples) // 320)
    assert np.isfinite(found).all()
    assert (found <= 1e-5).all()


@pytest.mark.parametrize(
    ("amplitude", "offset", "reason"),
    [(0, 0, "silence"), (0, 0.5, "silence"), (0.9e-3, 0, "silence"), (1.1e-3, 0, ""), (1.1e-3, 0.5, "")],
)
def test_silence_is_below_60_db_whatever_the_dc_offset(amplitude: float, offset: float, reason: str) -> None:
    square = amplitude * np.tile([1, -1], 800) + offset
    assert why_not_measured(square.astype(np.float32), shortest=1600) == reason


def test_too_short_comes_before_silence() -> None:
    assert why_not_measured(np.zeros(0, dtype=np.float32), shortest=1) == "too short"
    assert why_not_measured(np.zeros(9, dtype=np.float32), shortest=10) == "too short"


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_an_error(wrong: float) -> None:
    with pytest.raises(FeatureError, match="not numbers"):
        why_not_measured(np.float32([0, wrong]), shortest=1)


def test_two_channels_are_an_error() -> None:
    with pytest.raises(FeatureError, match=r"\(2, 800\)"):
        why_not_measured(np.zeros((2, 800), dtype=np.float32), shortest=1)
