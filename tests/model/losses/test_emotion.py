"""Emotion loss: unlabelled clips skipped, class weights equal to torch's."""

import math

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.config.schema import LossesConfig
from rellm_cache.data.batch import IGNORED, Example
from rellm_cache.model.losses.emotion import (
    class_weights,
    emotion_cross_entropy,
    rater_divergence,
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
    examples = [Example(f"a/{n}", emotion) for n, emotion in enumerate(emotions)]
    weights = class_weights(LossesConfig(class_weights="balanced"), examples, 4)
    assert weights is not None
    assert weights[[0, 1, 3]].tolist() == pytest.approx([12 / 18, 12 / 6, 12 / 12])
    assert sum(float(weights[e]) for e in emotions if e != IGNORED) == pytest.approx(12)
    listed = class_weights(LossesConfig(class_weights=(1.0, 2.0)), examples, 2)
    assert listed is not None
    assert listed.tolist() == [1, 2]
    assert class_weights(LossesConfig(), examples, 4) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_raters_replace_the_label_by_their_distribution(smoothing: float) -> None:
    torch.manual_seed(0)
    nan = [float("nan")] * 3
    logits, weights = torch.randn(3, 3), torch.tensor([0.5, 1.0, 4.0])
    shares = torch.tensor([[0.75, 0.25, 0.0], nan, [0.5, 0.0, 0.5]])
    emotions = torch.tensor([0, 2, IGNORED])  # the third is a tie
    each = F.cross_entropy(
        logits[[0, 2]], shares[[0, 2]], reduction="none", label_smoothing=smoothing
    )
    hard = F.cross_entropy(logits[1:2], emotions[1:2], reduction="none", label_smoothing=smoothing)
    plain = emotion_cross_entropy(logits, emotions, smoothing, shares=shares)
    torch.testing.assert_close(plain, each.sum() + hard.sum())
    weighed = emotion_cross_entropy(logits, emotions, smoothing, weights, shares)
    expected = each[0] * 0.625 + hard[0] * 4.0 + each[1] * 2.25
    torch.testing.assert_close(weighed, expected)
    assert utterance_weights(emotions, None, shares).tolist() == [1, 1, 1]
    assert utterance_weights(emotions, weights, shares).tolist() == pytest.approx(
        [0.625, 4.0, 2.25]
    )


def test_one_hot_shares_are_the_hard_label() -> None:
    torch.manual_seed(0)
    logits, emotions = torch.randn(4, 5), torch.tensor([0, 3, 3, 1])
    soft = emotion_cross_entropy(logits, emotions, 0.1, shares=F.one_hot(emotions, 5).float())
    torch.testing.assert_close(soft, emotion_cross_entropy(logits, emotions, 0.1))


def test_divergence_from_raters() -> None:
    shares = torch.tensor([[0.5, 0.5], [float("nan")] * 2, [1.0, 0.0]])
    total, count = rater_divergence(torch.zeros(3, 2), shares)
    assert (total.item(), int(count)) == (pytest.approx(math.log(2)), 2)


def test_balanced_weights_count_shares() -> None:
    examples = [Example("a/1", 0, shares=(0.75, 0.25)), Example("a/2", 1)]
    weights = class_weights(LossesConfig(class_weights="balanced"), examples, 2)
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 1.5, 2 / 2.5])
