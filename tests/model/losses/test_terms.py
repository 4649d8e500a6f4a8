"""Losses equal torch's own on full logits, in value and gradient, in any batching."""

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.config.schema import LossesConfig
from rellm_cache.data.batch import IGNORED
from rellm_cache.llm.packing import Segment, pack
from rellm_cache.llm.teacher_distribution import distribution_rows, split_rows
from rellm_cache.model.losses import terms as losses
from rellm_cache.model.losses.terms import (
    LossTerms,
    category_loss,
    class_weights,
    count_terms,
    dimension_loss,
    token_divergences,
    token_losses,
)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_token_losses_are_cross_entropy_of_shifted_labels(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    torch.manual_seed(0)
    labels = torch.tensor([IGNORED, IGNORED, 3, 1, 0, 4])
    row = pack([Segment(torch.zeros(5, 6), answer=(3, 1, 0, 4))])
    weight = torch.randn(5, 6)
    ours = torch.randn(5, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    upstream = torch.randn(4)
    values, owners = token_losses(row, ours, weight)
    (values * upstream).sum().backward()
    logits = theirs @ weight.T
    expected = F.cross_entropy(logits, labels[1:], reduction="none", ignore_index=IGNORED)
    expected = expected[labels[1:] != IGNORED]
    (expected * upstream).sum().backward()
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert owners.tolist() == [0] * 4


def test_no_gradient_is_made_where_none_is_needed() -> None:
    row = pack([Segment(torch.zeros(1, 3), answer=(1,))])
    values, _ = token_losses(row, torch.randn(1, 3), torch.randn(4, 3))
    assert not values.requires_grad


def test_category_loss_skips_the_unlabelled() -> None:
    logits = torch.randn(3, 5)
    both = category_loss(logits, torch.tensor([2, IGNORED, 0]), smoothing=0.0)
    expected = F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0]), reduction="sum")
    torch.testing.assert_close(both, expected)


def naive_divergence(
    hidden: torch.Tensor, weight: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """(N,) T^2 KL over the teacher's tokens and the rest, from all probabilities at once."""
    ids, log_p, log_p_rest = split_rows(teacher)
    q = (hidden @ weight.T / temperature).softmax(1)
    own = q.gather(1, ids)
    rest = q.sum(1, keepdim=True) - own.sum(1, keepdim=True)
    log_p = torch.cat([log_p, log_p_rest], 1)
    log_q = torch.cat([own, rest], 1).log()
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)


@pytest.mark.parametrize("chunk", [2, 1000])
@pytest.mark.parametrize("top_k", [1, 4, 10])
def test_divergences_are_those_of_full_probabilities(
    chunk: int, top_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    torch.manual_seed(0)
    weight = torch.randn(11, 6)
    teacher = distribution_rows(torch.randn(5, 6), weight, top_k, 2.0)
    ours = torch.randn(5, 6, requires_grad=True)
    theirs = ours.detach().double().requires_grad_()
    upstream = torch.randn(5)
    values = token_divergences(ours, weight, teacher, 2.0)
    (values * upstream).sum().backward()
    expected = naive_divergence(theirs, weight.double(), teacher.double(), 2.0)
    (expected * upstream).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(values, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad.float(), rtol=1e-5, atol=1e-5)


def test_a_student_that_is_its_teacher_has_no_divergence_and_no_gradient() -> None:
    torch.manual_seed(0)
    weight, hidden = torch.randn(11, 6), torch.randn(5, 6, requires_grad=True)
    values = token_divergences(hidden, weight, distribution_rows(hidden, weight, 3, 2.0), 2.0)
    values.sum().backward()
    assert hidden.grad is not None
    assert values.abs().max() < 1e-6
    assert hidden.grad.abs().max() < 1e-6


def test_a_bin_of_almost_nothing_stays_finite() -> None:
    weight = torch.eye(4)
    sure = torch.tensor([[200.0, 0.0, 0.0, -200.0]], requires_grad=True)
    unsure = torch.zeros(1, 4)
    for teacher, student in ((sure, unsure), (unsure, sure)):
        hidden = student.detach().requires_grad_()
        rows = distribution_rows(teacher.detach(), weight, 2, 1.0)
        value = token_divergences(hidden, weight, rows, 1.0)
        value.sum().backward()
        assert hidden.grad is not None
        assert value.isfinite().all()
        assert hidden.grad.isfinite().all()
        assert hidden.grad.abs().max() > 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_weigh_utterances(smoothing: float) -> None:
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 1.0, 4.0])
    emotions = torch.tensor([2, IGNORED, 0, 0, 1])
    ours = torch.randn(5, 3, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    count = count_terms({}, emotions, torch.full((5, 3), torch.nan), weights)[2]
    mean = category_loss(ours, emotions, smoothing, weights) / count
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


def test_dimension_loss_counts_only_clips_with_dimensions() -> None:
    vad = torch.tensor([[0.5, 0.5, 0.5], [float("nan")] * 3])
    predicted = torch.tensor([[0.5, 0.8, 0.5], [9.0, 9.0, 9.0]], requires_grad=True)
    loss = dimension_loss(predicted, vad)
    loss.backward()
    assert loss.item() == pytest.approx(0.03)
    assert predicted.grad is not None
    assert not predicted.grad[1].any()
    tokens = {"response_lm": 7, "emotion_lm": 4}
    assert count_terms(tokens, torch.tensor([1, IGNORED]), vad).tolist() == [7, 4, 1, 1, 0, 0]


def test_means_do_not_depend_on_how_a_step_is_cut_up() -> None:
    weights = torch.tensor([1.0, 0.5, 1.0, 2.0, 1.0, 3.0])
    parts = [
        LossTerms(torch.tensor([30.0, 4, 2, 1, 0, 6]), torch.tensor([10.0, 2, 0.5, 1, 0, 3])),
        LossTerms(torch.tensor([5.0, 0, 3, 0, 0, 4]), torch.tensor([5.0, 0, 0.25, 0, 0, 1])),
    ]
    whole = parts[0] + parts[1]
    pieces = sum(part.total(weights, whole.counts) for part in parts)
    assert float(pieces) == pytest.approx(float(whole.total(weights)))
    assert whole.means() == pytest.approx(
        {
            "response_lm": 35 / 15,
            "emotion_lm": 2,
            "emotion_ce": 5 / 0.75,
            "vad": 1,
            "qa_lm": 2.5,
        }
    )
