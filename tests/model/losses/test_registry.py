"""Loss registry: what is active, and a new loss of each kind in a step."""

from collections.abc import Iterator

import pytest
import torch

from rellm_cache.config.schema import LossesConfig
from rellm_cache.model.losses.registry import LOSSES, active_losses, clip_loss, loss_weights


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Losses that a test registers are gone after it."""
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)


def test_losses_with_a_weight_are_active() -> None:
    config = LossesConfig(response_lm=0.0, emotion_lm=0.5)
    assert list(active_losses(config, has_dimensions=True)) == ["emotion_lm", "emotion_ce", "vad"]
    assert "vad" not in active_losses(config, has_dimensions=False)
    assert loss_weights(config)["emotion_lm"] == 0.5


def test_a_loss_over_answers_brings_their_cross_entropy() -> None:
    config = LossesConfig(response_lm=0.0, response_kl=1.0, emotion_ce=0.0, vad=0.0)
    assert list(active_losses(config, has_dimensions=True)) == ["response_lm", "response_kl"]


def test_two_losses_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="'vad' is registered already"):
        clip_loss("vad")(lambda outputs, batch, context: torch.zeros(()))
