"""Master weights: updates too small for bfloat16 add up; gradients are summed in float32."""

import pytest
import torch
from torch import nn

from rellm_cache.errors import RunError
from rellm_cache.training.master_weights import MasterWeights


def test_updates_below_a_bfloat16_step_add_up() -> None:
    weight = nn.Parameter(torch.ones(4))
    masters = MasterWeights({"weight": weight}, bf16=True)
    optimiser = torch.optim.SGD(masters.tensors.values(), lr=1e-3)
    for _ in range(100):
        weight.sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        masters.copy_to_parameters()
    assert weight.dtype == torch.bfloat16
    assert weight[0] == torch.tensor(0.9).bfloat16()
    torch.testing.assert_close(masters.tensors["weight"].detach(), torch.full((4,), 0.9))


def test_gradients_of_micro_batches_are_summed_in_float32() -> None:
    weight = nn.Parameter(torch.ones(1))
    masters = MasterWeights({"weight": weight}, bf16=True)
    for factor in (256.0, 1.0, 1.0, 1.0):  # in bfloat16 256 + 1 is 256
        (weight * factor).sum().backward()
    assert weight.grad is None
    assert masters.tensors["weight"].grad == torch.tensor([259.0])


def test_float32_parameters_are_their_own_masters() -> None:
    weight = nn.Parameter(torch.ones(2))
    masters = MasterWeights({"weight": weight}, bf16=False)
    assert masters.tensors["weight"] is weight
    assert masters.state_dict() == {}


def test_a_state_brings_masters_and_parameters_back() -> None:
    first = MasterWeights({"weight": nn.Parameter(torch.tensor([0.1, 0.3]))}, bf16=True)
    weight = nn.Parameter(torch.zeros(2))
    second = MasterWeights({"weight": weight}, bf16=True)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.tensors["weight"], torch.tensor([0.1, 0.3]))
    assert torch.equal(weight, torch.tensor([0.1, 0.3]).bfloat16())
    with pytest.raises(RunError, match=r"master weights of 0 parameters, expected 1"):
        second.load_state_dict({})
