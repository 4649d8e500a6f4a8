"""Calibration of class probabilities: expected calibration error (ECE) and temperature scaling."""

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

    Predictions fall into bins of equal width by their highest probability. The error is the mean of
    |accuracy - mean probability| over the bins, weighted by their counts.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == true
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[bin_of == b].mean() - confidence[bin_of == b].mean()) * np.sum(bin_of == b)
        for b in np.unique(bin_of)
    ]
    return float(np.sum(gaps) / len(true))


def fit_temperature(logits: NDArray[np.floating], true: NDArray[np.int64]) -> float:
    """Temperature, 0.1..10, with the lowest cross entropy of logits (N, C) and classes (N,)."""

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(true)), true].mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def probabilities_of(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C) divided by a temperature."""
    return np.asarray(softmax(logits / temperature, axis=1), np.float64)
