"""Runs compared. In: a score for each seed. Out: mean, spread, and differences paired by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A score over several runs.

    Attributes:
        n: runs.
        mean: of their scores.
        sd: sample standard deviation (n - 1); None for one run.
    """

    n: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class PairedDifference(Spread):
    """What a change did to a score, seed by seed: `mean` and `sd` are of the differences.

    Attributes:
        low: lower end of the 95 % interval of the mean difference; None for one pair.
        high: upper end.
    """

    low: float | None
    high: float | None


def spread(scores: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of one or more scores."""
    values = np.asarray(scores, np.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(values.mean()), sd)


def paired_difference(
    changed: Mapping[int, float], baseline: Mapping[int, float]
) -> PairedDifference | None:
    """Changed minus baseline over the seeds that both have; None where they share none.

    The interval is Student's, mean ± t(n - 1) sd / √n. Few seeds make it wide, as they should.
    """
    differences = [changed[seed] - baseline[seed] for seed in changed if seed in baseline]
    if not differences:
        return None
    found = spread(differences)
    if found.sd is None:
        return PairedDifference(found.n, found.mean, None, None, None)
    quantile = float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2))
    half = quantile * found.sd / math.sqrt(found.n)
    return PairedDifference(found.n, found.mean, found.sd, found.mean - half, found.mean + half)
