"""Optimizer of the adapter and heads: AdamW in float32 or 8 bits, learning-rate schedule, clipping.

AdamW (Loshchilov and Hutter, 2019) keeps two float32 moments for each weight. The 8-bit form of
bitsandbytes keeps them in blocks of 8-bit numbers with one scale per block (Dettmers et al., 2022),
a quarter of the memory. The paged form lets the GPU driver move them to host memory when the GPU is
full. In both forms, tensors with fewer than 4,096 weights keep float32 moments.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from rellm_cache.config.schema import TrainingConfig
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.training.gradients import SummedGradients
from rellm_cache.training.master_weights import MasterWeights
from rellm_cache.training.precision import trains_in_bf16
from rellm_cache.training.weight_averaging import WeightAverage

ADAMW_CLASSES: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "adamw8bit": bitsandbytes.optim.AdamW8bit,
    "paged_adamw8bit": bitsandbytes.optim.PagedAdamW8bit,
}


class Optimizer:
    """AdamW with warm-up, decay and gradient clipping, and all state that the next update needs.

    The model must be on its device. Its parameters become bfloat16 if the config says so.

    Attributes:
        masters, tensors: the float32 tensors that are updated.
        gradients: their gradients, summed over the micro-batches of a step.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = total_steps
        self.masters = MasterWeights(
            {name: p for name, p in model.named_parameters() if p.requires_grad},
            bf16=config.param_dtype == "bf16",
        )
        self.tensors = list(self.masters.tensors.values())
        self.gradients = SummedGradients(self.masters, config.gradient_dtype == "int8")
        self.adamw = make_adamw(self.tensors, config, self.tensors[0].device)
        averaged = round(config.weight_averaging * total_steps)
        self._average = WeightAverage(self.masters, total_steps - averaged) if averaged else None

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0: linear warm-up, then decay to 0."""
        config = self.config
        warmup = min(config.warmup_steps, self.total_steps)
        if step < warmup:
            return config.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.total_steps - warmup)
        if config.schedule == "linear":
            return config.learning_rate * (1 - done)
        if config.schedule == "cosine":
            return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        return config.learning_rate

    def step(self, number: int) -> float:
        """Clip the gradient and update the weights; return its norm before clipping.

        Raises:
            RunError: the gradient is not finite.
        """
        norm = self.gradients.clip(self.config.max_grad_norm)
        if not torch.isfinite(norm):
            in_bf16 = trains_in_bf16(self.config, norm.device)
            fix = ', or set training.precision = "fp32"' if in_bf16 else ""
            raise RunError(
                f"step {number}: the gradient is {norm.item()}, expected a finite number; lower "
                f"training.learning_rate{fix}"
            )
        for group in self.adamw.param_groups:
            group["lr"] = self.learning_rate(number)
        self.gradients.update(self.adamw)
        self.masters.copy_to_parameters()
        if self._average is not None:
            self._average.update(number)
        return float(norm)

    def averaged_weights(self) -> AbstractContextManager[None]:
        """Context in which the model has the mean weights, if the recipe averages them."""
        return self._average.applied() if self._average is not None else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """All state except the parameters and the step number, for `torch.save`."""
        average = {} if self._average is None else {"average": self._average.state_dict()}
        return {
            "optimiser": self.adamw.state_dict(),
            "masters": self.masters.state_dict(),
            **average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the state after the parameters; RunError, ValueError or KeyError if it differs."""
        load_adamw_state(self.adamw, state["optimiser"])
        self.masters.load_state_dict(state["masters"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


def make_adamw(
    tensors: Iterable[Tensor], config: TrainingConfig, device: torch.device
) -> torch.optim.Optimizer:
    """Build the recipe's AdamW; weight decay applies to matrices and convolutions only.

    Raises:
        ConfigError: the optimizer does not run on this device.
    """
    if config.optimizer == "paged_adamw8bit" and device.type != "cuda":
        raise ConfigError(
            f'training.optimizer = "paged_adamw8bit" needs a CUDA GPU and the device is '
            f'{device.type}; "adamw" and "adamw8bit" run here'
        )
    kept = list(tensors)
    groups = [
        {"params": [t for t in kept if t.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [t for t in kept if t.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer: torch.optim.Optimizer = ADAMW_CLASSES[config.optimizer](
        groups, lr=config.learning_rate
    )
    return optimizer


def load_adamw_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load `optimizer.state_dict()`, also paged moments; `ValueError` for another model's."""
    if not isinstance(optimizer, bitsandbytes.optim.PagedAdamW8bit):
        optimizer.load_state_dict(state)
        return
    optimizer.load_state_dict(state, move_to_device=False)
    for tensor, own in optimizer.state.items():
        for name in ("state1", "state2"):
            paged = optimizer.get_state_buffer(tensor, dtype=own[name].dtype)
            own[name] = paged.copy_(own[name])
    optimizer.to_gpu()
