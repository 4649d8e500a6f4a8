"""Scores as papers print them. In: scores of clips or of runs. Out: mean, deviation, how many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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


def summarise(scores: Sequence[float]) -> Summary:
    """Mean and sample standard deviation of one or more scores."""
    values = np.asarray(scores, np.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return Summary(float(values.mean()), sd, len(values))
