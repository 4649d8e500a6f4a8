"""Agreement of predicted dimensions. In: two columns of numbers. Out: CCC."""

import numpy as np
from numpy.typing import NDArray


def concordance(true: np.ndarray, predicted: np.ndarray) -> float:
    """Concordance correlation coefficient (Lin 1989) of two (N,) columns, -1..1.

    Two columns of one and the same constant have none: NaN.
    """
    return float(concordance_of_rows(true, predicted))


def concordance_of_rows(true: np.ndarray, predicted: np.ndarray) -> NDArray[np.float64]:
    """CCC of each row of two arrays (…, N): shape (…)."""
    # Both moved by as much, which changes nothing: a constant is then 0, and so exactly its mean.
    origin = true[..., :1].astype(np.float64)
    true, predicted = true.astype(np.float64) - origin, predicted.astype(np.float64) - origin
    true_mean, predicted_mean = true.mean(-1, keepdims=True), predicted.mean(-1, keepdims=True)
    covariance = np.mean((true - true_mean) * (predicted - predicted_mean), axis=-1)
    shift = (true_mean - predicted_mean)[..., 0]
    spread = np.asarray(true.var(-1) + predicted.var(-1) + shift**2)
    found = np.full_like(spread, np.nan)
    np.divide(2 * covariance, spread, out=found, where=spread != 0)
    return found
