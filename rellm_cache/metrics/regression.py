"""Agreement of predicted dimensions. In: two columns of numbers. Out: CCC."""

import numpy as np


def concordance(true: np.ndarray, predicted: np.ndarray) -> float:
    """Concordance correlation coefficient (Lin 1989) of two (N,) columns, -1..1.

    Two constant columns have none: NaN.
    """
    true, predicted = true.astype(np.float64), predicted.astype(np.float64)
    covariance = np.mean((true - true.mean()) * (predicted - predicted.mean()))
    spread = true.var() + predicted.var() + (true.mean() - predicted.mean()) ** 2
    return float(2 * covariance / spread) if spread else float("nan")
