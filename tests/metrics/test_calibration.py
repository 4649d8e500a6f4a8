"""Calibration against cases with a known answer."""

import numpy as np
import pytest
from scipy.special import softmax

from rellm_cache.metrics.calibration import (
    calibration_error,
    fit_temperature,
    probabilities_of,
)


def test_the_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.85, 0.15], [0.85, 0.15], [0.35, 0.65], [0.35, 0.65]])
    # Both sure ones are right (gap 0.15), one of the unsure ones is (gap 0.15).
    assert calibration_error(probabilities, np.array([0, 0, 1, 0])) == pytest.approx(0.15)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


def test_a_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0, 1.5, (4000, 3))
    true = np.array([random.choice(3, p=p) for p in softmax(logits, axis=1)])
    assert fit_temperature(logits, true) == pytest.approx(1, abs=0.06)
    assert fit_temperature(3 * logits, true) == pytest.approx(3, abs=0.2)
    before = calibration_error(probabilities_of(3 * logits, 1.0), true)
    after = calibration_error(probabilities_of(3 * logits, 3.0), true)
    assert after < 0.03 < 0.1 < before


def test_probabilities_sum_to_one() -> None:
    found = probabilities_of(np.array([[1.0, 2.0, 3.0]], np.float32), 2.0)
    assert found.sum() == pytest.approx(1)
    assert found[0, 2] / found[0, 1] == pytest.approx(np.exp(0.5))
