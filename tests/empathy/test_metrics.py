"""Scores of a mechanism on its judged exchanges, with and without the temperature."""

import numpy as np
import pytest
import torch

from rellm_cache.empathy.exchanges import EncodedExchange
from rellm_cache.empathy.metrics import fit_mechanism, score_mechanism
from rellm_cache.metrics.calibration import calibration_error, fit_temperature, probabilities_of

LOGITS = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [9, 0, 0]], np.float32)


def encoded(levels: dict[str, int]) -> EncodedExchange:
    return EncodedExchange(torch.empty(0), torch.empty(0), "", False, False, levels, {})


EXCHANGES = [encoded({"ER": 0}), encoded({"EX": 2}), encoded({"ER": 2}), encoded({"ER": 1})]
ROWS, TRUE = [0, 2, 3], np.array([0, 2, 1])  # judged for ER


def test_only_judged_exchanges_count() -> None:
    scores = score_mechanism(LOGITS, EXCHANGES, "ER", 2.0)
    assert scores.count == 3
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.f1 == pytest.approx({"0": 2 / 3, "1": 0, "2": 1})
    assert scores.macro_f1 == pytest.approx(5 / 9)
    assert scores.confusion == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    sure, softer = (probabilities_of(LOGITS[ROWS], t) for t in (1.0, 2.0))
    assert scores.uncalibrated_error == pytest.approx(calibration_error(sure, TRUE))
    assert scores.calibration_error == pytest.approx(calibration_error(softer, TRUE))


def test_the_temperature_is_fitted_to_judged_exchanges() -> None:
    found = fit_mechanism(LOGITS, EXCHANGES, "ER")
    assert found == fit_temperature(LOGITS[ROWS], TRUE)
    # Right in two of three: e^(9 / t) is then 4, twice that of each wrong level and as much again.
    assert found == pytest.approx(9 / np.log(4), rel=1e-3)
