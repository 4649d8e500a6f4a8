"""Token losses equal torch's own on full logits, in value and gradient, for any chunk size."""

import pytest
import torch
from torch.nn import functional as F

from rellm_cache.data.batch import IGNORED
from rellm_cache.llm.packed_rows import Segment, pack
from rellm_cache.llm.teacher_distribution import distribution_rows, split_rows
from rellm_cache.model.losses.token import token_cross_entropy, token_divergences


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_cross_entropy_is_that_of_shifted_labels(chunk: int) -> None:
    torch.manual_seed(0)
    labels = torch.tensor([IGNORED, IGNORED, 3, 1, 0, 4])
    row = pack([Segment(torch.zeros(5, 6), answer=(3, 1, 0, 4))])
    weight = torch.randn(5, 6)
    ours = torch.randn(5, 6, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    upstream = torch.randn(4)
    values, owners = token_cross_entropy(row, ours, weight, chunk)
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
    values, _ = token_cross_entropy(row, torch.randn(1, 3), torch.randn(4, 3))
    assert not values.requires_grad


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
def test_divergences_are_those_of_full_probabilities(chunk: int, top_k: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(11, 6)
    teacher = distribution_rows(torch.randn(5, 6), weight, top_k, 2.0)
    ours = torch.randn(5, 6, requires_grad=True)
    theirs = ours.detach().double().requires_grad_()
    upstream = torch.randn(5)
    values = token_divergences(ours, weight, teacher, 2.0, chunk)
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
