"""Paired tests against scipy and hand-computed ranks."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from rellm_cache.metrics.significance import holm, paired_difference, paired_test


def test_a_test_worked_out_by_hand() -> None:
    # Differences 1, 2, 3, -4: ranks 1, 2, 3 for, 4 against: (6 - 4) / 10.
    found = paired_test([1, 2, 3, 0], [0, 0, 0, 4])
    assert found.effect == pytest.approx(0.2)
    assert (found.better, found.worse, found.equal) == (3, 1, 0)
    # Of the 16 signs, W+ is 4 or less in 7 and 6 or more in 7.
    assert found.p == pytest.approx(14 / 16)


def test_levels_with_ties_and_zeros_equal_scipy() -> None:
    random = np.random.default_rng(1)
    first, second = random.integers(0, 3, (2, 300))
    found = paired_test(first, second)
    assert found.p == pytest.approx(stats.wilcoxon(first, second, zero_method="wilcox").pvalue)
    assert found.equal == np.sum(first == second)
    mirrored = paired_test(second, first)
    assert (mirrored.p, mirrored.effect) == pytest.approx((found.p, -found.effect))


def test_few_ties_are_tested_exactly() -> None:
    moved = np.array([1, 1, -1, 2, 2, -2, 1, 2])
    ranks = stats.rankdata(np.abs(moved))
    sums = np.array([ranks @ np.array(signs) for signs in product((0, 1), repeat=len(moved))])
    away = abs(ranks[moved > 0].sum() - ranks.sum() / 2)
    expected = np.mean(np.abs(sums - ranks.sum() / 2) >= away)
    with_zeros = [*moved, 0, 0]
    assert paired_test(with_zeros, [0] * 10).p == pytest.approx(expected)


def test_many_ties_are_tested_by_the_normal_approximation_corrected_for_them() -> None:
    differences = np.random.default_rng(2).integers(-1, 4, 80)
    moved = differences[differences != 0]
    n, ranks = len(moved), stats.rankdata(np.abs(moved))
    tied = np.unique(ranks, return_counts=True)[1]
    variance = n * (n + 1) * (2 * n + 1) / 24 - np.sum(tied**3 - tied) / 48
    z = (ranks[moved > 0].sum() - n * (n + 1) / 4) / np.sqrt(variance)
    found = paired_test(differences, np.zeros(80))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)
    against = ranks[moved < 0].sum()
    assert found.effect == pytest.approx((ranks[moved > 0].sum() - against) / ranks.sum())


def test_ties_share_their_mean_rank() -> None:
    assert paired_test([1, 1, 0], [0, 0, 1]).effect == pytest.approx((4 - 2) / 6)


def test_one_way_differences_have_the_whole_effect() -> None:
    found = paired_test(np.arange(1, 9), np.zeros(8))
    assert found.effect == 1
    assert found.p == pytest.approx(2 / 2**8)


def test_no_difference_at_all_is_no_evidence() -> None:
    found = paired_test([1, 2, 0], [1, 2, 0])
    assert (found.p, found.effect, found.equal) == (1.0, 0.0, 3)
    assert paired_test([], []).p == 1.0


def test_one_pair_that_differs_proves_nothing() -> None:
    found = paired_test([1, 1], [1, 0])
    assert (found.p, found.effect) == (1.0, 1.0)


def test_unpaired_or_infinite_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        paired_test([1, 2], [1])
    with pytest.raises(ValueError, match="finite"):
        paired_test([1, float("nan")], [1, 0])


def test_holms_correction_worked_out_by_hand() -> None:
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5})
    expected = {"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5}  # 3 · 0.03 holds 2 · 0.04 up
    assert list(found) == list(expected)
    assert found == pytest.approx(expected)


def test_a_corrected_p_stays_a_probability() -> None:
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    with pytest.raises(ValueError, match=r"b: p = 1\.5, expected 0\.\.1"):
        holm({"a": 0.5, "b": 1.5})


CHANGED = {1: 0.71, 2: 0.78, 3: 0.74, 4: 0.70}
BASELINE = {4: 0.66, 3: 0.73, 2: 0.70, 1: 0.72}


def test_a_difference_is_paired_by_seed_with_students_interval() -> None:
    found = paired_difference(CHANGED, BASELINE)
    assert found is not None
    seeds = sorted(CHANGED)
    changed, baseline = ([side[s] for s in seeds] for side in (CHANGED, BASELINE))
    differences = np.subtract(changed, baseline)
    assert (found.mean, found.sd) == pytest.approx((differences.mean(), differences.std(ddof=1)))
    interval = stats.ttest_rel(changed, baseline).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_only_common_seeds_are_paired() -> None:
    found = paired_difference({1: 0.5, 2: 0.9}, {2: 0.7, 3: 0.1})
    assert found is not None
    assert (found.count, found.sd, found.low, found.high) == (1, None, None, None)
    assert found.mean == pytest.approx(0.2)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
