"""Precision. In: a recipe's `[training]`, a device. Out: the context that forward passes run in."""

import torch

from rellm_cache.config.schema import TrainingConfig


def of_steps(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Of the forward passes of a step; "auto" is bfloat16 on a GPU or with bfloat16 weights."""
    bf16 = config.precision == "bf16"
    if config.precision == "auto":
        bf16 = device.type == "cuda" or config.weights == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def of_validation(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Of validation: float32, as a finished run answers, unless the weights are bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.weights == "bf16")
