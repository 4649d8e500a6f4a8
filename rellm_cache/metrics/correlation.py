"""Correlation: concordance (CCC) and Spearman's rank correlation, with bootstrap intervals."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rellm_cache.metrics.intervals import Column, Interval, bootstrap


def concordance(true: np.ndarray, predicted: np.ndarray) -> float:
    """Concordance correlation coefficient (Lin 1989) of two columns (N,), -1..1.

    NaN where both columns are the same constant.
    """
    return float(concordance_of_rows(true, predicted))


def concordance_of_rows(true: np.ndarray, predicted: np.ndarray) -> NDArray[np.float64]:
    """CCC of each row of two arrays (…, N): shape (…)."""
    # A common shift does not change the CCC. It makes a constant `true` and its mean exactly 0.
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
    true: Sequence[float] | Column, predicted: Sequence[float] | Column, resamples: int = 10_000
) -> Interval:
    """CCC of predicted (N,) with true (N,) and its percentile bootstrap interval."""
    return bootstrap(concordance_of_rows, true, predicted, method="percentile", resamples=resamples)


def rank_correlation_of_rows(first: Column, second: Column) -> Column:
    """Spearman's correlation of each row of two arrays (…, N): shape (…); NaN for a constant row.

    `scipy.stats.spearmanr` compares all columns with each other; this compares row by row.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        ranks = (stats.rankdata(first, axis=-1), stats.rankdata(second, axis=-1))
        found: Column = stats.pearsonr(*ranks, axis=-1).statistic
    return found


def rank_correlation(
    first: Sequence[float], second: Sequence[float], resamples: int = 10_000
) -> Interval:
    """Spearman's correlation of two columns (N,) and its percentile bootstrap interval."""
    return bootstrap(
        rank_correlation_of_rows, first, second, method="percentile", resamples=resamples
    )
