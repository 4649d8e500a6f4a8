"""Agreement of predicted dimensions. In: two columns of numbers. Out: CCC."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rellm_cache.metrics.intervals import Column, Interval, Method, bootstrap


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


def concordance_interval(
    true: Sequence[float] | Column,
    predicted: Sequence[float] | Column,
    method: Method = "percentile",
    resamples: int = 10_000,
    seed: int = 12,
) -> Interval:
    """CCC of predicted (N,) with true (N,) and its interval."""
    return bootstrap(
        concordance_of_rows, true, predicted, method=method, resamples=resamples, seed=seed
    )


def rank_correlation_of_rows(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's correlation of each row of two arrays (…, N): shape (…); ties share their mean
    rank, and a constant row has none: NaN."""
    ranks = [rankdata(column, axis=-1) for column in (first, second)]
    first, second = (r - r.mean(-1, keepdims=True) for r in ranks)
    spread = np.asarray(np.sqrt((first**2).sum(-1) * (second**2).sum(-1)))
    found = np.full_like(spread, np.nan)
    np.divide((first * second).sum(-1), spread, out=found, where=spread > 0)
    return found


def rank_correlation(
    first: Sequence[float], second: Sequence[float], resamples: int = 10_000, seed: int = 12
) -> Interval:
    """Spearman's correlation of two columns (N,), and its percentile bootstrap interval."""
    return bootstrap(
        rank_correlation_of_rows,
        first,
        second,
        method="percentile",
        resamples=resamples,
        seed=seed,
    )
