import numpy as np
import pytest
from scipy.special import softmax

from mmerc.analysis.temperature import HIGHEST, fit_temperature, negative_log_likelihood, rescale


@pytest.fixture(scope="module")
def calibrated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, the probabilities that they stand for, and targets drawn with just these probabilities."""
    generator = np.random.default_rng(0)
    logits = generator.normal(scale=2.0, size=(4000, 5))
    probabilities = softmax(logits, axis=1)
    targets = (probabilities.cumsum(axis=1) < generator.random((4000, 1))).sum(axis=1)
    return logits, probabilities, targets


def test_a_calibrated_model_stays_as_it_is(calibrated: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    _, probabilities, targets = calibrated
    assert fit_temperature(probabilities, targets) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_a_model_too_sure_or_not_sure_enough_is_corrected(
    calibrated: tuple[np.ndarray, np.ndarray, np.ndarray], factor: float
) -> None:
    logits, probabilities, targets = calibrated
    spoilt = softmax(factor * logits, axis=1).astype(np.float32)
    found = fit_temperature(spoilt, targets)
    assert found == pytest.approx(factor, rel=0.05)
    np.testing.assert_allclose(rescale(spoilt, factor), probabilities, atol=1e-4)
    corrected = negative_log_likelihood(rescale(spoilt, found), targets)
    assert corrected < negative_log_likelihood(spoilt, targets)


def test_temperatures_row_by_row(calibrated: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    logits, probabilities, _ = calibrated
    temperature = np.linspace(0.5, 3, len(logits))
    expected = [softmax(row / t) for row, t in zip(logits, temperature, strict=True)]
    np.testing.assert_allclose(rescale(probabilities, temperature), expected, atol=1e-9)
    assert (rescale(probabilities, 2.0).argmax(axis=1) == probabilities.argmax(axis=1)).all()


def test_certainty_in_what_is_wrong_is_bounded() -> None:
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert fit_temperature(probabilities, np.array([1, 1])) == pytest.approx(HIGHEST, rel=0.01)
    assert np.isfinite(negative_log_likelihood(probabilities, np.array([1, 1])))
