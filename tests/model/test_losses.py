"""Losses equal torch's own on full logits, in value and gradient, in any batching."""

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.llm.packing import IGNORED, Segment, pack
from rellm_cache.model import losses
from rellm_cache.model.losses import (
    LossTerms,
    category_loss,
    count_terms,
    dimension_loss,
    token_losses,
)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_token_losses_are_cross_entropy_of_shifted_labels(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    torch.manual_seed(0)
    labels = torch.tensor([IGNORED, IGNORED, 3, 1, 0, 4, IGNORED, 2])
    row = pack([Segment(torch.zeros(8, 6), labels)])
    weight = torch.randn(5, 6)
    ours = torch.randn(8, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    upstream = torch.randn(5)
    values, owners = token_losses(row, ours, weight)
    (values * upstream).sum().backward()
    logits = (theirs @ weight.T)[:-1]
    expected = F.cross_entropy(logits, labels[1:], reduction="none", ignore_index=IGNORED)
    expected = expected[labels[1:] != IGNORED]
    (expected * upstream).sum().backward()
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert owners.tolist() == [0] * 5


def test_no_gradient_is_made_where_none_is_needed() -> None:
    row = pack([Segment(torch.zeros(2, 3), torch.tensor([IGNORED, 1]))])
    values, _ = token_losses(row, torch.randn(2, 3), torch.randn(4, 3))
    assert not values.requires_grad


def test_category_loss_skips_the_unlabelled() -> None:
    logits = torch.randn(3, 5)
    both = category_loss(logits, torch.tensor([2, IGNORED, 0]), smoothing=0.0)
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0]), reduction="sum")
    torch.testing.assert_close(both, expected)


def test_dimension_loss_counts_only_clips_with_dimensions() -> None:
    vad = torch.tensor([[0.5, 0.5, 0.5], [float("nan")] * 3])
    predicted = torch.tensor([[0.5, 0.8, 0.5], [9.0, 9.0, 9.0]], requires_grad=True)
    loss = dimension_loss(predicted, vad)
    loss.backward()
    assert loss.item() == pytest.approx(0.03)
    assert predicted.grad is not None
    assert not predicted.grad[1].any()
    assert count_terms(7, 4, torch.tensor([1, IGNORED]), vad).tolist() == [7, 4, 1, 1]


def test_means_do_not_depend_on_how_a_step_is_cut_up() -> None:
    weights = torch.tensor([1.0, 0.5, 1.0, 2.0])
    parts = [
        LossTerms(torch.tensor([30.0, 4, 2, 1]), torch.tensor([10.0, 2, 2, 1])),
        LossTerms(torch.tensor([5.0, 0, 3, 0]), torch.tensor([5.0, 0, 2, 0])),
    ]
    whole = parts[0] + parts[1]
    pieces = sum(part.total(weights, whole.counts) for part in parts)
    assert float(pieces) == pytest.approx(float(whole.total(weights)))
    assert whole.means() == pytest.approx(
        {"response": 35 / 15, "recognition": 2, "category": 5 / 4, "dimension": 1}
    )
