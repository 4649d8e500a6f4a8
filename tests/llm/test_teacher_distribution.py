"""Teacher distributions: rows at a temperature, and the divergence that binning loses."""

import pytest
import torch
from binning import truncation
from torch.nn import functional as F

from rellm_cache.llm.teacher_distribution import distribution_rows, split_rows
from rellm_cache.model.losses.token import token_divergences


@pytest.mark.parametrize("chunk", [2, 1000])
def test_rows_hold_the_most_probable_tokens_and_the_rest(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 6), torch.randn(40, 6)
    rows = distribution_rows(hidden, weight, 7, 2.0, chunk)
    assert rows.shape == (5, 15)
    ids, log_p, rest = split_rows(rows)
    expected = (hidden @ weight.T / 2).softmax(1)
    assert torch.equal(ids, expected.topk(7).indices)
    torch.testing.assert_close(log_p.exp(), expected.topk(7).values)
    torch.testing.assert_close(log_p.exp().sum(1, keepdim=True) + rest.exp(), torch.ones(5, 1))


def test_binning_loses_the_divergence_within_the_rest() -> None:
    torch.manual_seed(0)
    theirs, ours = 3 * torch.randn(6, 50), 3 * torch.randn(6, 50)
    p, q = (theirs / 2).softmax(1).double(), (ours / 2).softmax(1).double()
    lost = []
    for top_k in (1, 8, 32, 49):
        found = truncation(theirs, ours, top_k, 2.0)
        full = F.kl_div(q.log(), p, reduction="none").sum(1)
        torch.testing.assert_close(found.full, full, rtol=1e-5, atol=1e-6)
        others = torch.ones_like(p).scatter(1, p.topk(top_k).indices, 0.0)
        p_rest, q_rest = p * others, q * others
        within = F.kl_div(
            (q_rest / q_rest.sum(1, keepdim=True)).clamp(min=1e-30).log(),
            p_rest / p_rest.sum(1, keepdim=True),
            reduction="none",
        ).sum(1)
        torch.testing.assert_close(found.rest, p_rest.sum(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            found.full - found.binned, found.rest * within, rtol=1e-4, atol=1e-5
        )
        lost.append(float((found.full - found.binned).mean()))
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] == pytest.approx(0, abs=1e-9)  # a rest of one token loses nothing


def test_binned_divergence_is_what_training_computes() -> None:
    torch.manual_seed(0)
    weight, theirs, ours = torch.randn(40, 6), torch.randn(5, 6), torch.randn(5, 6)
    expected = truncation(theirs @ weight.T, ours @ weight.T, 7, 2.0).binned
    rows = distribution_rows(theirs, weight, 7, 2.0)
    found = token_divergences(ours, weight, rows, 2.0)
    torch.testing.assert_close(found, 4 * expected.float(), rtol=1e-5, atol=1e-5)
