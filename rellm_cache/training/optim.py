"""Optimisation. In: a model and a recipe's `[training]`. Out: steps, and a state that resumes them.

One object holds all that the next update depends on besides its gradient: the optimiser's moments,
master weights, the schedule of the learning rate; and the mean of weights where one is kept.
"""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rellm_cache.config.schema import TrainingConfig
from rellm_cache.errors import RunError
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.runs.weights import trainables
from rellm_cache.training.master_weights import Masters
from rellm_cache.training.optimizers import load_state, make_optimiser
from rellm_cache.training.weight_averaging import WeightAverage


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        step: optimiser steps taken.
        epoch: being trained, from 0.
        step_in_epoch: steps of this epoch taken.
        best: best validation score so far, higher is better; None before the first.
        seconds: of training so far.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    seconds: float = 0.0


class Optimisation:
    """The recipe's optimiser with warm-up, decay and clipping.

    Args:
        model: on its device; its parameters become bfloat16 if the recipe says so.
    """

    def __init__(self, model: SpeechLLM, config: TrainingConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = total_steps
        self.masters = Masters(trainables(model), rounded=config.weights == "bf16")
        self.tensors = list(self.masters.tensors.values())
        self.optimiser = make_optimiser(self.tensors, config, self.tensors[0].device)
        averaged = round(config.average * total_steps)
        self.average = WeightAverage(self.masters, total_steps - averaged) if averaged else None

    def learning_rate(self, step: int) -> float:
        """Of the step with this number, from 0: linear warm-up, then the recipe's decay to 0."""
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
        """Clip and update; returns the gradient norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.tensors, self.config.clip)
        if not torch.isfinite(norm):
            raise RunError(
                f"step {number}: the gradient is {norm.item()}; lower training.learning_rate, or "
                'set training.precision = "fp32"'
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(number)
        self.optimiser.step()
        self.masters.spread()
        self.forget_gradients()
        if self.average is not None:
            self.average.add(number)
        return float(norm)

    def kept_weights(self) -> AbstractContextManager[None]:
        """The model with the weights that are validated and kept: their mean, where one is."""
        return self.average.applied() if self.average is not None else nullcontext()

    def forget_gradients(self) -> None:
        """Drop the gradients that were summed so far."""
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """All but the parameters and the step, on the CPU or not, as `torch.save` takes it."""
        average = {} if self.average is None else {"average": self.average.state()}
        return {
            "optimiser": self.optimiser.state_dict(),
            "masters": self.masters.state(),
            **average,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state; the parameters must have been loaded before.

        Raises:
            RunError, ValueError, KeyError: it is another model's.
        """
        load_state(self.optimiser, state["optimiser"])
        self.masters.load(state["masters"])
        if self.average is not None:
            self.average.load(state["average"])


def flat_gradients(tensors: Iterable[Tensor]) -> Tensor:
    """All gradients end to end, then for each tensor 1 where it has one: one vector to be summed.

    Zeros stand for a gradient that is not there.
    """
    kept = list(tensors)
    parts = [(torch.zeros_like(t) if t.grad is None else t.grad).reshape(-1) for t in kept]
    present = torch.tensor([float(t.grad is not None) for t in kept], device=kept[0].device)
    return torch.cat([*parts, present])


def set_gradients(tensors: Iterable[Tensor], flat: Tensor) -> None:
    """Put a sum of vectors made by `flat_gradients` back; what no process had stays absent."""
    kept = list(tensors)
    *parts, present = torch.split(flat, [*(t.numel() for t in kept), len(kept)])
    for tensor, part, count in zip(kept, parts, present.tolist(), strict=True):
        tensor.grad = part.view_as(tensor).clone() if count else None
