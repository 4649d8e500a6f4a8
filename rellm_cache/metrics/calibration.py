"""Do probabilities mean what they say? In: logits and labels. Out: ECE, and a temperature."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

BINS = 10
TEMPERATURES = (0.1, 10.0)


def calibration_error(
    probabilities: NDArray[np.floating], true: NDArray[np.int64], bins: int = BINS
) -> float:
    """Expected calibration error (Guo et al. 2017) of probabilities (N, C) against classes (N,).

    The mean over equally wide bins of the winning probability of |accuracy - mean probability|,
    weighted by how many fall into each.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == true
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[place == b].mean() - confidence[place == b].mean()) * np.sum(place == b)
        for b in np.unique(place)
    ]
    return float(np.sum(gaps) / len(true))


def fit_temperature(logits: NDArray[np.floating], true: NDArray[np.int64]) -> float:
    """The divisor of logits (N, C), 0.1..10, that makes the true classes (N,) likeliest."""

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(true)), true].mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def probabilities_of(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """(N, C) probabilities of logits divided by a temperature."""
    return np.asarray(softmax(logits / temperature, axis=1), np.float64)
