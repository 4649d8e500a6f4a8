"""Bootstrap intervals, means and standard deviations of scores.

A resample draws the same rows from every column, so paired scores stay paired. The same seed gives
the same interval.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Column = NDArray[np.float64]
Statistic = Callable[..., Column]  # columns (R, N) -> (R,)
Method = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Interval:
    """A statistic and its bootstrap interval; all NaN if the statistic has no value."""

    value: float
    low: float
    high: float
    confidence: float


def bootstrap(
    statistic: Statistic,
    *columns: Sequence[float] | Column,
    method: Method = "bca",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 12,
    batch_values: int = 1_000_000,
) -> Interval:
    """A paired bootstrap interval of a statistic of columns (N,), by `scipy.stats.bootstrap`.

    A resample without a value, such as the CCC of constant columns, is left out. Where BCa has no
    value, because the resamples do not vary, the interval is the percentile interval.

    Args:
        statistic: maps columns (R, N), a resample in each row, to (R,) values.
        method: "percentile", or "bca": bias-corrected and accelerated (Efron 1987).
        batch_values: values drawn at a time; bounds the memory and changes no result.

    Raises:
        ValueError: columns of different lengths, or empty ones.
    """
    data = [np.asarray(column, np.float64) for column in columns]
    count = len(data[0])
    if not count or any(column.shape != (count,) for column in data):
        raise ValueError(f"expected columns of one length, found {[c.shape for c in data]}")
    value = float(statistic(*(column[None] for column in data))[0])
    if count == 1:
        return Interval(value, value, value, confidence)
    resample = partial(
        stats.bootstrap,
        data,
        lambda *rows, axis: statistic(*rows),
        paired=True,
        vectorized=True,
        confidence_level=confidence,
        batch=max(1, batch_values // count),
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # about resamples without a value
        random = np.random.default_rng(seed)
        found = resample(n_resamples=resamples, method="percentile", rng=random)
        values = found.bootstrap_distribution
        values = found.bootstrap_distribution = values[~np.isnan(values)]
        if np.isnan(value) or not len(values):
            return Interval(float("nan"), float("nan"), float("nan"), confidence)
        low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        if method == "bca":
            found = resample(n_resamples=0, method="bca", bootstrap_result=found)
            if not np.isnan(found.confidence_interval.low):
                low, high = found.confidence_interval
    return Interval(value, float(low), float(high), confidence)


def mean_interval(
    scores: Sequence[float] | Column,
    method: Method = "bca",
    resamples: int = 10_000,
    seed: int = 12,
) -> Interval:
    """Mean of scores (N,), or of paired differences, and its interval."""
    return bootstrap(_mean_of_rows, scores, method=method, resamples=resamples, seed=seed)


def _mean_of_rows(scores: Column) -> Column:
    means: Column = scores.mean(axis=-1)
    return means


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (n - 1) of scores; no deviation for a single score."""

    mean: float
    sd: float | None
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.sd is None else f"{self.mean:.3f} ({self.sd:.3f})"


def summarize(scores: Sequence[float]) -> Summary:
    """Mean and sample standard deviation of one or more scores."""
    values = np.asarray(scores, np.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return Summary(float(values.mean()), sd, len(values))
