"""Metrics of empathy scorers: F1 by level, accuracy, confusion, calibration error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rellm_cache.empathy.exchanges import EncodedExchange
from rellm_cache.metrics.calibration import calibration_error, fit_temperature, probabilities_of
from rellm_cache.metrics.classification import score_recognition

LEVEL_NAMES = ("0", "1", "2")


@dataclass(frozen=True)
class LevelScores:
    """Scores of one mechanism."""

    macro_f1: float  # mean F1 of the levels
    accuracy: float  # share of correct levels
    f1: dict[str, float]  # level → F1
    confusion: list[list[int]]  # confusion[true][predicted]
    calibration_error: float  # expected calibration error with the temperature
    uncalibrated_error: float  # expected calibration error without it
    count: int  # number of judged exchanges


def fit_mechanism(
    logits: NDArray[np.float32], exchanges: Sequence[EncodedExchange], mechanism: str
) -> float:
    """The temperature that calibrates a mechanism's logits (N, 3) on its judged exchanges."""
    return fit_temperature(*_judged(logits, exchanges, mechanism))


def score_mechanism(
    logits: NDArray[np.float32],
    exchanges: Sequence[EncodedExchange],
    mechanism: str,
    temperature: float,
) -> LevelScores:
    """Scores of a mechanism's logits (N, 3) on its judged exchanges."""
    judged, true = _judged(logits, exchanges, mechanism)
    probabilities = probabilities_of(judged, temperature)
    recognition = score_recognition(true, probabilities.argmax(1), LEVEL_NAMES)
    return LevelScores(
        macro_f1=recognition.macro_f1,
        accuracy=recognition.accuracy,
        f1=recognition.f1,
        confusion=[row[:-1] for row in recognition.confusion],
        calibration_error=calibration_error(probabilities, true),
        uncalibrated_error=calibration_error(probabilities_of(judged, 1.0), true),
        count=len(true),
    )


def _judged(
    logits: NDArray[np.float32], exchanges: Sequence[EncodedExchange], mechanism: str
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits (M, 3) and true levels (M,) of the exchanges with a level for a mechanism."""
    rows = [i for i, e in enumerate(exchanges) if mechanism in e.levels]
    return logits[rows], np.array([exchanges[i].levels[mechanism] for i in rows])
