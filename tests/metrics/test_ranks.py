"""Spearman's correlation against scipy's, ties and constant columns included."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rellm_cache.metrics.ranks import rank_correlation, rank_correlation_of_rows


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
