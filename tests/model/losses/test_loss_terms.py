"""Loss terms: a step's means and total do not depend on its micro-batches."""

import pytest
import torch

from rellm_cache.model.losses.loss_terms import LossTerm, LossTerms

CPU = torch.device("cpu")


def make_terms(**pairs: tuple[float, float]) -> LossTerms:
    """Terms by name, from a sum and a count each."""
    return LossTerms({n: LossTerm(*torch.tensor(pair).unbind()) for n, pair in pairs.items()})


def test_means_do_not_depend_on_micro_batches() -> None:
    weights = {"response_lm": 1.0, "emotion_lm": 0.5, "emotion_ce": 1.0, "vad": 2.0, "qa_lm": 3.0}
    parts = [
        make_terms(response_lm=(30, 10), emotion_lm=(4, 2), emotion_ce=(2, 0.5), vad=(1, 1)),
        make_terms(response_lm=(5, 5), emotion_lm=(0, 0), emotion_ce=(3, 0.25), vad=(0, 0)),
    ]
    whole = parts[0] + parts[1]
    pieces = sum(part.total(weights, whole.counts) for part in parts)
    assert float(pieces) == pytest.approx(float(whole.total(weights)))
    assert whole.means() == pytest.approx(
        {"response_lm": 35 / 15, "emotion_lm": 2, "emotion_ce": 5 / 0.75, "vad": 1}
    )


def test_a_term_without_a_count_is_not_reported_and_adds_nothing() -> None:
    terms = LossTerms.zeros(["vad", "emotion_ce"], CPU) + make_terms(vad=(3, 2), emotion_ce=(0, 0))
    assert terms.means() == {"vad": 1.5}
    assert float(terms.total({"vad": 2.0, "emotion_ce": 5.0})) == 3


def test_a_mean_can_be_replaced() -> None:
    terms = make_terms(vad=(3, 2), emotion_ce=(1, 4)).with_mean("vad", torch.tensor(0.25))
    assert terms.means() == {"vad": 0.25, "emotion_ce": 0.25}
