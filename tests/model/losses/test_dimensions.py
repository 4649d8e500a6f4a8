"""VAD losses: micro-batches of a step add up to the value and gradient of plain torch."""

import numpy as np
import pytest
import torch

from rellm_cache.metrics.correlation import concordance
from rellm_cache.model.losses.dimensions import ccc_distance, ccc_loss, moments_of, squared_error


def step() -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and dimensions of eleven utterances, two of them without dimensions."""
    torch.manual_seed(0)
    vad = torch.rand(11, 3)
    vad[[2, 7]] = torch.nan
    return torch.rand(11, 3), vad


def plain(predicted: torch.Tensor, vad: torch.Tensor) -> torch.Tensor:
    """1 - CCC, as its formula says."""
    known = ~vad.isnan().any(1)
    x, y = predicted[known].double(), vad[known].double()
    covariance = ((x - x.mean(0)) * (y - y.mean(0))).mean(0)
    spread = x.var(0, correction=0) + y.var(0, correction=0) + (x.mean(0) - y.mean(0)) ** 2
    return (1 - 2 * covariance / spread).mean()


def test_it_is_the_metric() -> None:
    predicted, vad = step()
    known = ~vad.isnan().any(1)
    columns = zip(vad[known].numpy().T, predicted[known].numpy().T, strict=True)
    expected = 1 - np.mean([concordance(true, said) for true, said in columns])
    assert float(ccc_distance(moments_of(predicted, vad))) == pytest.approx(expected)


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [3, 5, 3]])
def test_parts_of_a_step_add_up(sizes: list[int]) -> None:
    predicted, vad = step()
    ours, theirs = predicted.clone().requires_grad_(), predicted.clone().requires_grad_()
    moments = moments_of(predicted, vad)
    parts = zip(ours.split(sizes), vad.split(sizes), strict=True)
    total = sum(ccc_loss(x, y, moments) for x, y in parts) / moments[0, 0].float()
    assert isinstance(total, torch.Tensor)
    total.backward()
    expected = plain(theirs, vad)
    expected.backward()
    torch.testing.assert_close(total, expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_the_step_needs_no_moments() -> None:
    predicted, vad = step()
    alone = predicted.clone().requires_grad_()
    given = predicted.clone().requires_grad_()
    ccc_loss(alone, vad).backward()
    ccc_loss(given, vad, moments_of(predicted, vad)).backward()
    torch.testing.assert_close(alone.grad, given.grad)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_does_not_vary_teaches_nothing(count: int) -> None:
    vad = torch.full((3, 3), torch.nan)
    vad[:count] = 0.5
    predicted = torch.full((3, 3), 0.5, requires_grad=True)
    loss = ccc_loss(predicted, vad)
    loss.backward()
    assert loss.item() == count  # 1 - CCC of 1 each
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_squared_error_skips_clips_without_dimensions() -> None:
    vad = torch.tensor([[0.5, 0.5, 0.5], [float("nan")] * 3])
    predicted = torch.tensor([[0.5, 0.8, 0.5], [9.0, 9.0, 9.0]], requires_grad=True)
    loss = squared_error(predicted, vad)
    loss.backward()
    assert loss.item() == pytest.approx(0.03)
    assert predicted.grad is not None
    assert not predicted.grad[1].any()
