"""Bootstrap intervals. In: columns of scores and a statistic. Out: its value and how sure it is.

Rows are drawn with replacement, the same rows of every column, so that pairs stay pairs. The same
seed gives the same interval.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Column = NDArray[np.float64]
Statistic = Callable[..., Column]  # columns (R, N) -> (R,)
Method = Literal["percentile", "bca"]
BLOCK = 1_000_000  # drawn values at a time


@dataclass(frozen=True)
class Interval:
    """A statistic and its bootstrap interval; all NaN where it has no value.

    Attributes:
        value: of the data as they are.
        low: lower end.
        high: upper end.
        confidence: share of such intervals that hold the true value.
    """

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
) -> Interval:
    """The interval of `statistic` over rows of equally long columns (N,), N at least 1.

    A resample without a value (the CCC of constant columns) is left out.

    Args:
        statistic: maps columns (R, N), one resample a row, to (R,) values.
        method: "percentile", or "bca", bias-corrected and accelerated (Efron 1987).

    Raises:
        ValueError: columns of different lengths, or empty ones.
    """
    data = [np.asarray(column, np.float64) for column in columns]
    count = len(data[0])
    if not count or any(column.shape != (count,) for column in data):
        raise ValueError(f"expected columns of one length, found {[c.shape for c in data]}")
    value = float(statistic(*(column[None] for column in data))[0])
    random = np.random.default_rng(seed)
    sizes = _blocks(resamples, count)
    drawn = np.concatenate(
        [_apply(statistic, data, random.integers(0, count, (size, count))) for size in sizes]
    )
    drawn = drawn[~np.isnan(drawn)]
    if np.isnan(value) or not len(drawn):
        return Interval(float("nan"), float("nan"), float("nan"), confidence)
    levels = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca" and count > 1:
        levels = _corrected(levels, drawn, value, _leave_one_out(statistic, data))
    low, high = np.quantile(drawn, levels)
    return Interval(value, float(low), float(high), confidence)


def mean_interval(
    scores: Sequence[float], method: Method = "bca", resamples: int = 10_000, seed: int = 12
) -> Interval:
    """The mean of scores (N,) and its interval."""
    return bootstrap(_means, scores, method=method, resamples=resamples, seed=seed)


def difference_interval(
    first: Sequence[float],
    second: Sequence[float],
    method: Method = "bca",
    resamples: int = 10_000,
    seed: int = 12,
) -> Interval:
    """The mean of `first` minus `second`, paired by place, and its interval."""
    return bootstrap(_differences, first, second, method=method, resamples=resamples, seed=seed)


def _means(scores: Column) -> Column:
    means: Column = scores.mean(axis=-1)
    return means


def _differences(first: Column, second: Column) -> Column:
    return _means(first - second)


def _blocks(rows: int, width: int) -> Iterator[int]:
    size = max(1, BLOCK // width)
    for start in range(0, rows, size):
        yield min(size, rows - start)


def _apply(statistic: Statistic, data: list[Column], rows: NDArray[np.int64]) -> Column:
    return statistic(*(column[rows] for column in data))  # (R, N) each -> (R,)


def _leave_one_out(statistic: Statistic, data: list[Column]) -> Column:
    """(N,) the statistic without each row in turn."""
    count = len(data[0])
    others = np.arange(count - 1)
    values, start = [], 0
    for size in _blocks(count, count):
        left_out = np.arange(start, start + size)[:, None]
        values.append(_apply(statistic, data, others + (others >= left_out)))
        start += size
    return np.concatenate(values)


def _corrected(levels: Column, drawn: Column, value: float, left_out: Column) -> Column:
    """Quantile levels moved for bias and skew; unchanged where the drawn values do not vary."""
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    away = left_out.mean() - left_out
    spread = np.sum(away**2)
    if not 0 < below < 1 or not spread > 0:
        return levels
    acceleration = np.sum(away**3) / (6 * spread**1.5)
    bias = ndtri(below)
    shifted = bias + ndtri(levels)
    moved: Column = ndtr(bias + shifted / (1 - acceleration * shifted))
    return moved


@dataclass(frozen=True)
class Summary:
    """Scores in three numbers.

    Attributes:
        mean: of the scores.
        sd: sample standard deviation (n - 1); None for one score, which has none.
        count: scores.
    """

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
