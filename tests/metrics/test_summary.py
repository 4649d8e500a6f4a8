"""Mean and sample deviation, against numpy."""

import numpy as np
import pytest

from rellm_cache.metrics.summary import summarise


def test_a_summary_is_mean_and_sample_deviation() -> None:
    found = summarise([0, 1, 2, 1])
    assert (found.mean, found.sd, found.count) == (1.0, pytest.approx(np.sqrt(2 / 3)), 4)
    assert str(found) == "1.000 (0.816)"


def test_one_score_has_no_deviation() -> None:
    found = summarise([2])
    assert (found.mean, found.sd, found.count) == (2.0, None, 1)
    assert str(found) == "2.000"
