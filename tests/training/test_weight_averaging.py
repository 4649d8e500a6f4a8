"""Weight averaging: uses the right steps, does not affect training, and resumes."""

import pytest
import torch
from torch import nn

from rellm_cache.errors import RunError
from rellm_cache.training.master_weights import MasterWeights
from rellm_cache.training.weight_averaging import WeightAverage


def make(rounded: bool = False, first: int = 2) -> tuple[nn.Linear, MasterWeights, WeightAverage]:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    masters = MasterWeights(dict(layer.named_parameters()), rounded)
    return layer, masters, WeightAverage(masters, first)


def walk(masters: MasterWeights, average: WeightAverage, steps: range) -> list[torch.Tensor]:
    """Move the weights a little after each step; where they went."""
    places = []
    for number in steps:
        with torch.no_grad():
            masters.tensors["weight"].add_(0.1 * (number + 1))
        masters.copy_to_parameters()
        average.update(number)
        places.append(masters.tensors["weight"].detach().clone())
    return places


@pytest.mark.parametrize("rounded", [False, True])
def test_the_mean_of_the_last_steps_is_lent_to_the_model(rounded: bool) -> None:
    layer, masters, average = make(rounded)
    places = walk(masters, average, range(6))
    before = layer.weight.detach().clone()
    expected = torch.stack(places[2:]).mean(0)
    with average.applied():
        torch.testing.assert_close(masters.tensors["weight"], expected)
        torch.testing.assert_close(layer.weight, expected.to(layer.weight.dtype))
    assert torch.equal(layer.weight, before)
    assert torch.equal(masters.tensors["weight"], places[-1])


def test_before_the_first_step_there_is_no_mean() -> None:
    layer, masters, average = make(first=9)
    walk(masters, average, range(3))
    before = layer.weight.detach().clone()
    with average.applied():
        assert torch.equal(layer.weight, before)


def test_weights_come_back_after_an_error() -> None:
    layer, masters, average = make()
    walk(masters, average, range(6))
    before = layer.weight.detach().clone()
    with pytest.raises(KeyboardInterrupt), average.applied():
        raise KeyboardInterrupt
    assert torch.equal(layer.weight, before)


def test_a_state_goes_on_to_the_same_mean() -> None:
    _, masters, average = make()
    walk(masters, average, range(4))
    _, other_masters, other = make()
    other.load_state_dict(average.state_dict())
    with torch.no_grad():
        other_masters.tensors["weight"].copy_(masters.tensors["weight"])
    walk(masters, average, range(4, 6))
    walk(other_masters, other, range(4, 6))
    with average.applied(), other.applied():
        assert torch.equal(masters.tensors["weight"], other_masters.tensors["weight"])
    with pytest.raises(RunError, match="averages of 1 tensors, expected 2"):
        other.load_state_dict({"count": 1, "means": {"weight": torch.zeros(2, 3)}})
