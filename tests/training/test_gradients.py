"""Gradients in 8 bits: their sum, norm, clipping and update against float32."""

import copy
import gc
import weakref
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from rellm_cache.config.schema import TrainingConfig
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.training.gradients import CHUNK, MIN_VALUES, PackedSum
from rellm_cache.training.loop import make_accelerator
from rellm_cache.training.optim import Optimizer

INT8: dict[str, Any] = {"gradient_dtype": "int8", "warmup_steps": 0, "learning_rate": 1e-2}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 80), nn.GELU(), nn.Linear(80, 64))


def backward(model: nn.Module, micro_batches: int = 4, scale: float = 1.0) -> None:
    random = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    for _ in range(micro_batches):
        inputs = torch.randn(16, 96, generator=random).to(dtype)
        (scale * model(inputs).square().mean()).backward()


def gradients_of(optimizer: Optimizer) -> tuple[list[torch.Tensor], list[int]]:
    """What `adamw` is given for each tensor, and how many gradients were there at each call.

    Both are filled by the next step.
    """
    tensors = optimizer.tensors
    given, counts = [torch.zeros_like(t) for t in tensors], list[int]()

    def record(*_: object) -> None:
        counts.append(sum(t.grad is not None for t in tensors))
        for total, tensor in zip(given, tensors, strict=True):
            if tensor.grad is not None:
                total += tensor.grad

    optimizer.adamw.register_step_pre_hook(record)
    return given, counts


def difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Norm of the difference, as a share of the expected norm."""
    pairs = zip(found, expected, strict=True)
    error = torch.stack([(f - e).norm() for f, e in pairs]).norm()
    return float(error / torch.stack([e.norm() for e in expected]).norm())


@pytest.mark.parametrize("size", [MIN_VALUES, CHUNK, CHUNK + 300])
def test_a_sum_is_rounded_once_for_each_gradient(size: int) -> None:
    random = torch.Generator().manual_seed(2)
    total, packed = torch.zeros(size), PackedSum()
    assert not packed
    for _ in range(8):
        gradient = torch.randn(size, generator=random)
        total += gradient
        packed.add(gradient)
    assert packed.norm() == pytest.approx(float(total.norm()), rel=2e-3)
    taken = packed.take()
    assert (taken - total).norm() / total.norm() < 0.03
    assert not packed


@pytest.mark.parametrize("param_dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("max_norm", [1e-2, 1e3], ids=["clipped", "not clipped"])
def test_a_step_has_the_gradients_of_full_ones(
    param_dtype: Literal["fp32", "bf16"], max_norm: float
) -> None:
    found = {}
    for dtype in ("fp32", "int8"):
        model = make_model()
        config = TrainingConfig(
            **INT8 | {"gradient_dtype": dtype}, param_dtype=param_dtype, max_grad_norm=max_norm
        )
        optimizer = Optimizer(model, config, 10)
        given, counts = gradients_of(optimizer)
        backward(model)
        norm = optimizer.step(0)
        found[dtype] = norm, given, counts
    assert found["fp32"][2] == [4]
    assert found["int8"][2] == [2, 1, 1]  # both vectors, then one matrix at a time
    assert found["int8"][0] == pytest.approx(found["fp32"][0], rel=5e-3)
    assert 0 < difference(found["int8"][1], found["fp32"][1]) < 0.03


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_an_update_of_one_tensor_at_a_time_is_the_same(name: Literal["adamw", "adamw8bit"]) -> None:
    """Where the gradients agree, as those do whose values are all alike."""
    weights = {}
    for dtype in ("fp32", "int8"):
        model = make_model()
        config = TrainingConfig(**INT8 | {"gradient_dtype": dtype}, optimizer=name)
        optimizer = Optimizer(model, config, 10)
        for step in range(3):
            sum(p.sum() for p in model.parameters()).backward()
            optimizer.step(step)
        weights[dtype] = [p.detach().clone() for p in model.parameters()]
    for one, other in zip(weights["fp32"], weights["int8"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_large_gradients_exist_in_full_only_one_at_a_time() -> None:
    model = make_model()
    optimizer = Optimizer(model, TrainingConfig(**INT8), 10)
    most = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: most.append(
                sum(p.grad is not None for p in model.parameters() if p.numel() >= MIN_VALUES)
            )
        )
    backward(model)
    assert max(most) == 0  # after the hook that packs
    optimizer.step(0)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_gradient_that_is_not_finite_is_found(value: float, micro_batches: int) -> None:
    model = make_model()
    optimizer = Optimizer(model, TrainingConfig(**INT8), 10)
    backward(model, 1, scale=value)
    backward(model, micro_batches)
    with pytest.raises(RunError, match=r"step 0: the gradient is (nan|inf), expected a finite"):
        optimizer.step(0)


def test_gradients_are_dropped() -> None:
    first, second = make_model(), make_model()
    for model, clears in ((first, True), (second, False)):
        optimizer = Optimizer(model, TrainingConfig(**INT8), 10)
        if clears:
            backward(model, 2, scale=5.0)
            optimizer.gradients.clear()
        backward(model)
        optimizer.step(0)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tensor_without_a_gradient_is_left_as_it_is() -> None:
    model = make_model()
    before = copy.deepcopy(model)
    optimizer = Optimizer(model, TrainingConfig(**INT8), 10)
    model[0](torch.ones(1, 96)).sum().backward()
    optimizer.step(0)
    assert torch.equal(model[2].weight, before[2].weight)
    assert not torch.equal(model[0].weight, before[0].weight)


def test_gradients_of_processes_are_summed(tmp_path: Path) -> None:
    """Here in one process, which changes nothing but a rounding."""
    model = make_model()
    optimizer = Optimizer(model, TrainingConfig(**INT8, max_grad_norm=1e3), 10)
    backward(model)
    optimizer.gradients.sum_over_processes(make_accelerator(tmp_path))
    norm = optimizer.step(0)
    full = Optimizer(other := make_model(), TrainingConfig(max_grad_norm=1e3), 10)
    backward(other)
    assert norm == pytest.approx(full.step(0), rel=1e-2)


@pytest.mark.parametrize("param_dtype", ["fp32", "bf16"])
def test_a_model_is_freed_with_its_optimizer(param_dtype: Literal["fp32", "bf16"]) -> None:
    model = make_model()
    optimizer = Optimizer(model, TrainingConfig(**INT8, param_dtype=param_dtype), 10)
    backward(model)
    held = weakref.ref(next(model.parameters())), weakref.ref(optimizer.tensors[0])
    del model, optimizer
    gc.collect()
    assert [reference() for reference in held] == [None, None]


def test_a_step_of_one_micro_batch_has_nothing_to_pack() -> None:
    with pytest.raises(ConfigError, match=r"gradient_dtype = \"int8\" with gradient_accumulation"):
        TrainingConfig(gradient_dtype="int8", gradient_accumulation=1)
    TrainingConfig(gradient_dtype="int8", gradient_accumulation=1, micro_batch_tokens="auto")
    with pytest.raises(ConfigError, match=r"solver = \"least_squares\": it has no gradients"):
        TrainingConfig(gradient_dtype="int8", gradient_accumulation=2, solver="least_squares")
