"""Significance of paired differences: Wilcoxon test, Holm correction, intervals over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from scipy.stats import wilcoxon

from rellm_cache.metrics.intervals import Summary, summarize

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedTest:
    """A two-sided Wilcoxon signed-rank test of symmetry around zero.

    Attributes:
        effect: matched-pairs rank-biserial correlation, -1..1: the share of the rank sum in favor
            of the first system minus the share against it (Kerby 2014).
        better, worse: pairs in which the first system scored higher or lower.
        equal: pairs without a difference; the test leaves them out.
    """

    p: float
    effect: float
    better: int
    worse: int
    equal: int


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Wilcoxon signed-rank test of two columns of paired scores (N,), by `scipy.stats.wilcoxon`.

    Pairs without a difference are dropped; ties share their mean rank. The p value is exact for up
    to 50 pairs that differ (13 with ties), and a normal approximation corrected for ties for more.
    Where no pair differs, p is 1 and the effect 0.

    Raises:
        ValueError: columns of different lengths, or a score that is not a number.
    """
    scores, others = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if scores.shape != others.shape or scores.ndim != 1:
        raise ValueError(f"expected two equally long columns, found {scores.shape}, {others.shape}")
    differences = scores - others
    if not np.isfinite(differences).all():
        raise ValueError("found a score that is not a finite number, expected finite scores")
    counts = tuple(int(np.sum(np.sign(differences) == sign)) for sign in (1, -1, 0))
    if counts[2] == len(differences):
        return PairedTest(1.0, 0.0, *counts)
    moved = differences[differences != 0]
    result = wilcoxon(moved, alternative="greater")  # statistic: rank sum of positive differences
    total = len(moved) * (len(moved) + 1) / 2
    p = float(wilcoxon(moved).pvalue)
    return PairedTest(p, float(2 * result.statistic / total - 1), *counts)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values by name, corrected for the number of comparisons (Holm 1979); SciPy has no Holm."""
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"{name}: p = {p}, expected 0..1")
    ordered = sorted(p_values, key=lambda name: p_values[name])
    corrected, highest = {}, 0.0
    for place, name in enumerate(ordered):
        highest = max(highest, min(1.0, p_values[name] * (len(ordered) - place)))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


@dataclass(frozen=True)
class PairedDifference(Summary):
    """Mean difference of two variants paired by seed, and its 95 % interval, if there is one."""

    low: float | None
    high: float | None


def paired_difference(
    changed: Mapping[int, float], baseline: Mapping[int, float]
) -> PairedDifference | None:
    """`changed` minus `baseline` over the seeds that both have; None where they share no seed.

    The interval is Student's: mean ± t(n - 1) sd / √n.
    """
    differences = [changed[seed] - baseline[seed] for seed in changed if seed in baseline]
    if not differences:
        return None
    found = summarize(differences)
    if found.sd is None:
        return PairedDifference(found.mean, None, found.count, None, None)
    quantile = float(stdtrit(found.count - 1, (1 + CONFIDENCE) / 2))
    half = quantile * found.sd / math.sqrt(found.count)
    low, high = found.mean - half, found.mean + half
    return PairedDifference(found.mean, found.sd, found.count, low, high)
