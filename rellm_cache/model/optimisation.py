"""Optimisation. In: a model and a recipe's `[training]`. Out: steps, and a state that resumes them.

One object holds all that an interrupted run needs to go on exactly: optimiser moments, the step
that fixes the learning rate, random states.
"""

import math
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rellm_cache.config import TrainingConfig
from rellm_cache.errors import RunError
from rellm_cache.model.checkpoint import load_tensors, save_tensors
from rellm_cache.model.speech_llm import SpeechLLM

STATE = "state.pt"


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
    """AdamW with warm-up, decay and clipping."""

    def __init__(self, model: SpeechLLM, config: TrainingConfig, total_steps: int) -> None:
        self.model = model
        self.config = config
        self.total_steps = total_steps
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)

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
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if not torch.isfinite(norm):
            raise RunError(
                f"step {number}: the gradient is {norm.item()}; lower training.learning_rate, or "
                'set training.precision = "fp32"'
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(number)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def save(self, folder: Path, position: Position) -> None:
        """Write `folder/step-N` in one step, then remove older ones."""
        target = folder / f"step-{position.step:08d}"
        partial = folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_tensors(partial / "adapter.safetensors", self.model)
        state: dict[str, Any] = {
            "position": vars(position),
            "optimiser": self.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save(state, partial / STATE)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for older in checkpoints(folder)[:-1]:
            shutil.rmtree(older)

    def restore(self, checkpoint: Path) -> Position:
        """Continue from a checkpoint folder; `RunError` if it cannot be read."""
        load_tensors(checkpoint / "adapter.safetensors", self.model)
        try:
            state = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
            self.optimiser.load_state_dict(state["optimiser"])
        except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            raise RunError(
                f"{checkpoint}: cannot be continued from ({error}); remove it, and training goes "
                "on from an earlier checkpoint or starts again"
            ) from error
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["cuda_random"]:
            torch.cuda.set_rng_state_all(state["cuda_random"])
        return Position(**state["position"])


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def flat_gradients(model: nn.Module) -> Tensor:
    """All gradients end to end in one vector; zeros where a parameter got none."""
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
            for p in model.parameters()
        ]
    )


def set_gradients(model: nn.Module, flat: Tensor) -> None:
    """Put a vector made by `flat_gradients` back."""
    at = 0
    for parameter in model.parameters():
        parameter.grad = flat[at : at + parameter.numel()].view_as(parameter).clone()
        at += parameter.numel()
