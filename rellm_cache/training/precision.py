"""Autocast contexts for training steps and for validation."""

import torch

from rellm_cache.config.schema import TrainingConfig


def training_autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Autocast for the forward passes of a training step.

    "auto" means bfloat16 on a GPU or with bfloat16 weights, and float32 otherwise.
    """
    bf16 = config.precision == "bf16"
    if config.precision == "auto":
        bf16 = device.type == "cuda" or config.param_dtype == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def validation_autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Autocast for validation: bfloat16 for bfloat16 weights, else float32, the precision in
    which a finished run answers."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.param_dtype == "bf16")
