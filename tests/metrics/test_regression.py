"""The concordance correlation coefficient."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from rellm_cache.metrics.regression import (
    concordance,
    concordance_of_rows,
    rank_correlation,
    rank_correlation_of_rows,
)

TRUE = np.array([0.1, 0.4, 0.5, 0.9])


def test_perfect_agreement_is_one_and_its_mirror_minus_one() -> None:
    assert concordance(TRUE, TRUE) == pytest.approx(1)
    assert concordance(TRUE - TRUE.mean(), TRUE.mean() - TRUE) == pytest.approx(-1)


def test_a_shift_and_a_scale_cost_what_lins_formula_says() -> None:
    shifted = TRUE + 0.2
    assert concordance(TRUE, shifted) == pytest.approx(2 * TRUE.var() / (2 * TRUE.var() + 0.04))
    assert concordance(TRUE, TRUE / 2) < 0.8  # Pearson's correlation would be 1


def test_constants() -> None:
    assert concordance(TRUE, np.full(4, 0.5)) == 0
    assert math.isnan(concordance(np.ones(4), np.ones(4)))
    assert concordance(np.ones(4), np.zeros(4)) == 0


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 0.7])
@pytest.mark.parametrize("count", [3, 6, 10])
def test_a_constant_whose_mean_is_rounded_has_none_either(value: float, count: int) -> None:
    columns = np.full((2, 1, count), value)
    assert math.isnan(concordance_of_rows(*columns)[0])


def test_rows_are_scored_one_by_one_as_lin_defines_it() -> None:
    true, predicted = np.random.default_rng(1).normal(0.5, 0.2, (2, 4, 25))
    expected = [
        2 * np.cov(t, p, bias=True)[0, 1] / (t.var() + p.var() + (t.mean() - p.mean()) ** 2)
        for t, p in zip(true, predicted, strict=True)
    ]
    np.testing.assert_allclose(concordance_of_rows(true, predicted), expected)


def test_float32_columns_lose_no_precision() -> None:
    true = np.linspace(0, 1, 10_000, dtype=np.float32)
    assert concordance(true, true) == pytest.approx(1, abs=1e-12)


def test_it_is_scipys() -> None:
    random = np.random.default_rng(1)
    scores, rights = random.normal(size=(4, 30)), random.integers(0, 2, (4, 30)).astype(float)
    expected = [spearmanr(s, r).statistic for s, r in zip(scores, rights, strict=True)]
    np.testing.assert_allclose(rank_correlation_of_rows(scores, rights), expected)


def test_a_constant_column_has_none() -> None:
    assert np.isnan(rank_correlation([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]).value)


def test_the_interval_holds_the_value() -> None:
    scores = [0.1, 0.9, 0.4, 0.8, 0.7, 0.2, 0.6, 0.3]
    found = rank_correlation(scores, [0, 1, 0, 1, 1, 0, 0, 1], resamples=500)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(spearmanr(scores, [0, 1, 0, 1, 1, 0, 0, 1]).statistic)
