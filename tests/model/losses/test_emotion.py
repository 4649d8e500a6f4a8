"""Emotion loss: unlabelled clips skipped, class weights equal to torch's."""

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.config.schema import LossesConfig
from rellm_cache.data.batch import IGNORED
from rellm_cache.model.losses.emotion import (
    class_weights,
    emotion_cross_entropy,
    utterance_weights,
)


def test_unlabelled_utterances_are_skipped() -> None:
    logits = torch.randn(3, 5)
    both = emotion_cross_entropy(logits, torch.tensor([2, IGNORED, 0]), smoothing=0.0)
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0]), reduction="sum")
    torch.testing.assert_close(both, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_weigh_utterances(smoothing: float) -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 1.0, 4.0])
    emotions = torch.tensor([2, IGNORED, 0, 0, 1])
    ours = torch.randn(5, 3, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    count = utterance_weights(emotions, weights).sum()
    mean = emotion_cross_entropy(ours, emotions, smoothing, weights) / count
    mean.backward()
    known = [0, 2, 3, 4]
    each = F.cross_entropy(
        theirs[known], emotions[known], reduction="none", label_smoothing=smoothing
    )
    weight = weights[emotions[known]]
    expected = (each * weight).sum() / weight.sum()
    expected.backward()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    if not smoothing:
        plain = F.cross_entropy(theirs, emotions, weights, ignore_index=IGNORED)
        torch.testing.assert_close(mean, plain)


def test_balanced_weights_are_inverse_frequencies() -> None:
    emotions = [0] * 6 + [1] * 2 + [3] * 4 + [IGNORED] * 9
    weights = class_weights(LossesConfig(class_weights="balanced"), emotions, 4)
    assert weights is not None
    assert weights[[0, 1, 3]].tolist() == pytest.approx([12 / 18, 12 / 6, 12 / 12])
    assert sum(float(weights[e]) for e in emotions if e != IGNORED) == pytest.approx(12)
    listed = class_weights(LossesConfig(class_weights=(1.0, 2.0)), emotions, 2)
    assert listed is not None
    assert listed.tolist() == [1, 2]
    assert class_weights(LossesConfig(), emotions, 4) is None
