"""How good a scorer is. In: logits and judged readings. Out: F1 by level, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rellm_cache.empathy.exchanges import Reading
from rellm_cache.metrics.calibration import calibration_error, fit_temperature, probabilities_of
from rellm_cache.metrics.classification import score_recognition

LEVEL_NAMES = ("0", "1", "2")


@dataclass(frozen=True)
class LevelScores:
    """How well the levels of one mechanism are found.

    Attributes:
        macro_f1: mean F1 of the levels.
        accuracy: share of correct levels.
        f1: level → F1.
        confusion: confusion[true][predicted].
        calibration_error: expected calibration error, with the temperature.
        uncalibrated_error: the same without it.
        count: exchanges judged.
    """

    macro_f1: float
    accuracy: float
    f1: dict[str, float]
    confusion: list[list[int]]
    calibration_error: float
    uncalibrated_error: float
    count: int


def fit_mechanism(
    logits: NDArray[np.float32], readings: Sequence[Reading], mechanism: str
) -> float:
    """The temperature of a mechanism's logits (N, 3); readings it does not judge do not count."""
    rows = [i for i, r in enumerate(readings) if mechanism in r.levels]
    true = np.array([readings[i].levels[mechanism] for i in rows])
    return fit_temperature(logits[rows], true)


def score_mechanism(
    logits: NDArray[np.float32], readings: Sequence[Reading], mechanism: str, temperature: float
) -> LevelScores:
    """Scores of a mechanism's logits (N, 3); readings it does not judge do not count."""
    rows = [i for i, r in enumerate(readings) if mechanism in r.levels]
    true = np.array([readings[i].levels[mechanism] for i in rows])
    probabilities = probabilities_of(logits[rows], temperature)
    recognition = score_recognition(true, probabilities.argmax(1), LEVEL_NAMES)
    return LevelScores(
        macro_f1=recognition.macro_f1,
        accuracy=recognition.accuracy,
        f1=recognition.f1,
        confusion=[row[:-1] for row in recognition.confusion],
        calibration_error=calibration_error(probabilities, true),
        uncalibrated_error=calibration_error(probabilities_of(logits[rows], 1.0), true),
        count=len(rows),
    )
