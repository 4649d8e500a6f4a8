"""Bootstrap intervals against scipy's and against cases with a known answer."""

from typing import Literal

import numpy as np
import pytest
from scipy import stats

from rellm_cache.metrics.intervals import (
    bootstrap,
    mean_interval,
    summarize,
)

SCORES = np.random.default_rng(3).gamma(2.0, size=60)
OTHERS = SCORES + np.random.default_rng(4).normal(0.2, 0.3, 60)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_the_interval_of_a_mean_equals_scipy(method: Literal["percentile", "bca"]) -> None:
    found = mean_interval(SCORES, method=method)
    # scipy draws the same rows from the same generator.
    expected = stats.bootstrap(
        (SCORES,), np.mean, method=method, n_resamples=10_000, rng=np.random.default_rng(12)
    ).confidence_interval
    assert found.value == pytest.approx(SCORES.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_rows_stay_paired() -> None:
    found = bootstrap(lambda a, b: (a - b).mean(axis=-1), OTHERS, SCORES)
    assert found == mean_interval(OTHERS - SCORES)
    width = stats.t.ppf(0.975, 59) * (OTHERS - SCORES).std(ddof=1) / np.sqrt(60)
    assert found.value == pytest.approx((OTHERS - SCORES).mean())
    assert found.high - found.low == pytest.approx(2 * width, rel=0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    assert mean_interval(SCORES, seed=1) == mean_interval(SCORES, seed=1)
    assert mean_interval(SCORES, seed=1) != mean_interval(SCORES, seed=2)


def test_the_batch_of_resamples_does_not_change_the_interval() -> None:
    def mean(rows: np.ndarray) -> np.ndarray:
        return rows.mean(axis=-1)

    whole = bootstrap(mean, SCORES, resamples=500)
    assert bootstrap(mean, SCORES, resamples=500, batch_values=600) == whole


def test_scores_that_do_not_vary_have_no_width() -> None:
    found = mean_interval([1.0] * 9)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    one = mean_interval([2.0])
    assert (one.value, one.low, one.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("columns", [([1.0, 2.0], [1.0]), ([], [])])
def test_columns_of_different_lengths_are_refused(columns: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match="columns of one length"):
        bootstrap(lambda a, b: a.mean(-1), *columns)


def test_a_summary_is_mean_and_sample_deviation() -> None:
    found = summarize([0, 1, 2, 1])
    assert (found.mean, found.sd, found.count) == (1.0, pytest.approx(np.sqrt(2 / 3)), 4)
    assert str(found) == "1.000 (0.816)"


def test_one_score_has_no_deviation() -> None:
    found = summarize([2])
    assert (found.mean, found.sd, found.count) == (2.0, None, 1)
    assert str(found) == "2.000"
