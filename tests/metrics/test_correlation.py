"""Concordance and rank correlation against their definitions and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from rellm_cache.metrics.correlation import (
    concordance,
    concordance_interval,
    concordance_of_rows,
    rank_correlation,
    rank_correlation_of_rows,
)

SCORES = np.random.default_rng(3).gamma(2.0, size=60)
OTHERS = SCORES + np.random.default_rng(4).normal(0.2, 0.3, 60)
TRUE = np.array([0.1, 0.4, 0.5, 0.9])


def test_perfect_agreement_is_one_and_its_mirror_minus_one() -> None:
    assert concordance(TRUE, TRUE) == pytest.approx(1)
    assert concordance(TRUE - TRUE.mean(), TRUE.mean() - TRUE) == pytest.approx(-1)


def test_a_shift_and_a_scale_lower_ccc_by_lins_formula() -> None:
    shifted = TRUE + 0.2
    assert concordance(TRUE, shifted) == pytest.approx(2 * TRUE.var() / (2 * TRUE.var() + 0.04))
    assert concordance(TRUE, TRUE / 2) < 0.8  # Pearson's correlation would be 1


def test_ccc_of_constants() -> None:
    assert concordance(TRUE, np.full(4, 0.5)) == 0
    assert math.isnan(concordance(np.ones(4), np.ones(4)))
    assert concordance(np.ones(4), np.zeros(4)) == 0


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 0.7])
@pytest.mark.parametrize("count", [3, 6, 10])
def test_a_constant_with_a_rounded_mean_has_no_ccc(value: float, count: int) -> None:
    columns = np.full((2, 1, count), value)
    assert math.isnan(concordance_of_rows(*columns)[0])


def test_rows_are_scored_one_by_one() -> None:
    true, predicted = np.random.default_rng(1).normal(0.5, 0.2, (2, 4, 25))
    expected = [
        2 * np.cov(t, p, bias=True)[0, 1] / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
        for t, p in zip(true, predicted, strict=True)
    ]
    np.testing.assert_allclose(concordance_of_rows(true, predicted), expected)


def test_float32_columns_lose_no_precision() -> None:
    true = np.linspace(0, 1, 10_000, dtype=np.float32)
    assert concordance(true, true) == pytest.approx(1, abs=1e-12)


def test_the_interval_of_ccc_equals_scipy() -> None:
    found = concordance_interval(SCORES, OTHERS, resamples=2_000)
    expected = stats.bootstrap(
        (SCORES, OTHERS),
        lambda x, y: concordance(x, y),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2_000,
        rng=np.random.default_rng(12),
    ).confidence_interval
    assert found.value == pytest.approx(concordance(SCORES, OTHERS))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_statistic_without_a_value_has_no_interval() -> None:
    found = concordance_interval([1.0, 1.0], [1.0, 1.0])
    assert np.isnan([found.value, found.low, found.high]).all()


def test_resamples_without_a_value_are_left_out() -> None:
    # Of two rows half the resamples draw one row twice: both columns constant, no CCC.
    found = concordance_interval([0.0, 1.0], [0.0, 1.0])
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    # Of three the first two are alike: three of those are 0.1 each, whose mean is not quite 0.1.
    found = concordance_interval([0.1, 0.1, 0.7], [0.1, 0.1, 0.5])
    assert found.high == found.value < 0.95


def test_rank_correlation_equals_scipy() -> None:
    random = np.random.default_rng(1)
    scores, rights = random.normal(size=(4, 30)), random.integers(0, 2, (4, 30)).astype(float)
    expected = [stats.spearmanr(s, r).statistic for s, r in zip(scores, rights, strict=True)]
    np.testing.assert_allclose(rank_correlation_of_rows(scores, rights), expected)


def test_a_constant_column_has_no_rank_correlation() -> None:
    assert np.isnan(rank_correlation([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]).value)


def test_the_interval_of_rank_correlation_contains_it() -> None:
    scores = [0.1, 0.9, 0.4, 0.8, 0.7, 0.2, 0.6, 0.3]
    found = rank_correlation(scores, [0, 1, 0, 1, 1, 0, 0, 1], resamples=500)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(stats.spearmanr(scores, [0, 1, 0, 1, 1, 0, 0, 1]).statistic)
