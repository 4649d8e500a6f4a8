"""Runs compared. In: a score for each seed. Out: differences paired by seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import stdtrit

from rellm_cache.metrics.summary import Summary, summarise

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference(Summary):
    """What a change did to a score, seed by seed: `mean` and `sd` are of the differences.

    Attributes:
        low: lower end of the 95 % interval of the mean difference; None for one pair.
        high: upper end.
    """

    low: float | None
    high: float | None


def paired_difference(
    changed: Mapping[int, float], baseline: Mapping[int, float]
) -> PairedDifference | None:
    """Changed minus baseline over the seeds that both have; None where they share none.

    The interval is Student's, mean ± t(n - 1) sd / √n. Few seeds make it wide, as they should.
    """
    differences = [changed[seed] - baseline[seed] for seed in changed if seed in baseline]
    if not differences:
        return None
    found = summarise(differences)
    if found.sd is None:
        return PairedDifference(found.mean, None, found.count, None, None)
    quantile = float(stdtrit(found.count - 1, (1 + CONFIDENCE) / 2))
    half = quantile * found.sd / math.sqrt(found.count)
    low, high = found.mean - half, found.mean + half
    return PairedDifference(found.mean, found.sd, found.count, low, high)
