"""The concordance correlation coefficient."""

import math

import numpy as np
import pytest

from rellm_cache.metrics.regression import concordance

TRUE = np.array([0.1, 0.4, 0.5, 0.9])


def test_perfect_agreement_is_one_and_its_mirror_minus_one() -> None:
    assert concordance(TRUE, TRUE) == pytest.approx(1)
    assert concordance(TRUE - TRUE.mean(), TRUE.mean() - TRUE) == pytest.approx(-1)


def test_a_shift_and_a_scale_cost_what_lins_formula_says() -> None:
    shifted = TRUE + 0.2
    assert concordance(TRUE, shifted) == pytest.approx(2 * TRUE.var() / (2 * TRUE.var() + 0.04))
    assert concordance(TRUE, TRUE / 2) < 0.8  # Pearson's correlation would be 1


def test_constants() -> None:
    assert concordance(TRUE, np.full(4, 0.5)) == 0
    assert math.isnan(concordance(np.ones(4), np.ones(4)))


def test_float32_columns_lose_no_precision() -> None:
    true = np.linspace(0, 1, 10_000, dtype=np.float32)
    assert concordance(true, true) == pytest.approx(1, abs=1e-12)
