"""Paired differences, against numpy and scipy's paired t test."""

import numpy as np
import pytest
from scipy import stats

from rellm_cache.metrics.comparison import paired_difference

CHANGED = {1: 0.71, 2: 0.78, 3: 0.74, 4: 0.70}
BASELINE = {4: 0.66, 3: 0.73, 2: 0.70, 1: 0.72}


def test_a_difference_is_paired_by_seed_and_its_interval_is_students() -> None:
    found = paired_difference(CHANGED, BASELINE)
    assert found is not None
    seeds = sorted(CHANGED)
    changed, baseline = ([side[s] for s in seeds] for side in (CHANGED, BASELINE))
    differences = np.subtract(changed, baseline)
    assert (found.mean, found.sd) == pytest.approx((differences.mean(), differences.std(ddof=1)))
    interval = stats.ttest_rel(changed, baseline).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_only_seeds_of_both_are_pairs() -> None:
    found = paired_difference({1: 0.5, 2: 0.9}, {2: 0.7, 3: 0.1})
    assert found is not None
    assert (found.count, found.sd, found.low, found.high) == (1, None, None, None)
    assert found.mean == pytest.approx(0.2)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
