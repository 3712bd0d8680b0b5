"""Temperature scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2)."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LOWEST, HIGHEST = 0.05, 20.0  # where a temperature is looked for

Floats = npt.NDArray[np.float64]


def log_probabilities(probabilities: npt.ArrayLike) -> Floats:
    """Return the logarithms, of a probability that was rounded to 0 that of the smallest number."""
    array = np.asarray(probabilities, dtype=np.float64)
    return np.log(np.maximum(array, np.finfo(np.float32).tiny))


def rescale(probabilities: npt.ArrayLike, temperature: npt.ArrayLike) -> Floats:
    """Return softmax(z / T) of the logits z behind the probabilities (N, K).

    Args:
        probabilities: (N, K)
        temperature: T, one or (N,)
    """
    divisor = np.reshape(np.asarray(temperature, dtype=np.float64), (-1, 1))
    scaled: Floats = np.exp(log_softmax(log_probabilities(probabilities) / divisor, axis=1))
    return scaled


def negative_log_likelihood(probabilities: npt.ArrayLike, targets: npt.NDArray[np.int64]) -> float:
    """Return the mean of −log p of the true classes."""
    return float(-np.take_along_axis(log_probabilities(probabilities), targets[:, None], axis=1).mean())


def fit_temperature(probabilities: npt.ArrayLike, targets: npt.NDArray[np.int64]) -> float:
    """Return the T in [0.05, 20] with the lowest negative log-likelihood of the targets.

    Args:
        probabilities: (N, K), of labelled utterances that the model was not trained on
        targets: (N,) class indices
    """
    found = minimize_scalar(
        lambda x: negative_log_likelihood(rescale(probabilities, np.exp(x)), targets),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
    )
    return float(np.exp(found.x))
