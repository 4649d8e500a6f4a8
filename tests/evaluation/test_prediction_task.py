"""Sums of losses in rows: kept without rounding, and those of parts make the losses of all."""

import json

import pytest
import torch

from rellm_cache.evaluation.prediction_task import sums_field, sums_of
from rellm_cache.model.losses.dimensions import ccc_distance, moments_of
from rellm_cache.model.losses.loss_terms import LossTerm, LossTerms
from rellm_cache.training.validation import LossSums


def sums(predicted: torch.Tensor, true: torch.Tensor, loss: float) -> LossSums:
    """Sums over a few clips, with a loss of CCC."""
    count = torch.tensor(float(len(true)))
    terms = {"lm": LossTerm(torch.tensor(loss), count), "vad": LossTerm(torch.tensor(9.0), count)}
    return LossSums(LossTerms(terms), moments_of(predicted, true), 0.25, 1)


def test_sums_of_parts_are_those_of_all_and_survive_a_file() -> None:
    random = torch.Generator().manual_seed(1)
    predicted, true = torch.rand(2, 7, 3, generator=random).unbind()
    parts = [sums(predicted[:4], true[:4], 0.1), sums(predicted[4:], true[4:], 0.2)]
    read = [sums_of(json.loads(json.dumps(sums_field(part)))) for part in parts]
    for part, found in zip(parts, read, strict=True):
        assert found.terms == part.terms
        assert part.moments is not None
        assert found.moments is not None
        assert torch.equal(found.moments, part.moments)
    whole = read[0] + read[1]
    expected = float(ccc_distance(moments_of(predicted, true)))
    losses = {"lm": pytest.approx(0.3 / 7), "vad": pytest.approx(expected)}
    assert whole.losses.means() == losses
    assert (whole.divergence, whole.rated) == (0.5, 2)


def test_a_loss_without_moments_is_a_mean_of_terms() -> None:
    field = {"terms": {"vad": [3.0, 2.0]}, "moments": None, "raters": [0.0, 0]}
    assert sums_of(field).losses.means() == {"vad": 1.5}
