"""Optimizers: each form learns and resumes bit for bit; an unsupported device is named."""

import io
from typing import Literal

import pytest
import torch
from torch import nn

from rellm_cache.config.schema import TrainingConfig
from rellm_cache.errors import ConfigError
from rellm_cache.training.distributed import flatten_gradients, unflatten_gradients
from rellm_cache.training.optim import load_adamw_state, make_adamw

CPU = torch.device("cpu")


def descend(
    weights: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: int
) -> list[torch.Tensor]:
    """Some steps towards one; the weights after them."""
    for _ in range(steps):
        sum((w - 1).square().sum() for w in weights).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [w.detach().clone() for w in weights]


def make_weights() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(*shape, generator=random)) for shape in ((64, 80), (80,))]


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_a_state_resumes_bit_for_bit(name: Literal["adamw", "adamw8bit"]) -> None:
    config = TrainingConfig(optimizer=name, learning_rate=0.01)
    weights = make_weights()
    optimizer = make_adamw(weights, config, CPU)
    halfway = descend(weights, optimizer, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    end = descend(weights, optimizer, 5)
    file.seek(0)
    again = [nn.Parameter(w) for w in halfway]
    resumed = make_adamw(again, config, CPU)
    load_adamw_state(resumed, torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(end, descend(again, resumed, 5), strict=True))
    assert all((e - 1).norm() < (w - 1).norm() for e, w in zip(end, make_weights(), strict=True))


def test_eight_bit_moments_are_eight_bit() -> None:
    weights = make_weights()
    optimizer = make_adamw(weights, TrainingConfig(optimizer="adamw8bit"), CPU)
    descend(weights, optimizer, 1)
    matrix, vector = (optimizer.state[w] for w in weights)
    assert matrix["state1"].dtype == matrix["state2"].dtype == torch.uint8
    assert vector["state1"].dtype == torch.float32  # fewer than 4,096


def test_vectors_do_not_decay() -> None:
    decays = [
        group["weight_decay"]
        for group in make_adamw(make_weights(), TrainingConfig(), CPU).param_groups
    ]
    assert decays == [TrainingConfig().weight_decay, 0.0]


def test_a_paged_optimizer_needs_a_gpu() -> None:
    config = TrainingConfig(optimizer="paged_adamw8bit")
    with pytest.raises(ConfigError, match=r"needs a CUDA GPU .* is cpu; .*\"adamw8bit\" run here"):
        make_adamw(make_weights(), config, CPU)


def test_gradients_of_processes_are_summed_and_the_absent_stay_absent() -> None:
    flats = []
    for seen in ((1.0, 2.0, None), (None, 3.0, None)):
        tensors = [nn.Parameter(torch.zeros(2)) for _ in seen]
        for tensor, value in zip(tensors, seen, strict=True):
            tensor.grad = None if value is None else torch.full((2,), value)
        flats.append(flatten_gradients(tensors))
    unflatten_gradients(tensors, flats[0] + flats[1])
    assert [None if t.grad is None else t.grad.tolist() for t in tensors] == [
        [1.0, 1.0],
        [5.0, 5.0],
        None,
    ]
