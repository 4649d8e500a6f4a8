"""Do two columns rise together? In: scores. Out: Spearman's correlation and its interval."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rellm_cache.metrics.intervals import Interval, bootstrap


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
