"""Autocast contexts for training steps and for validation."""

import torch

from rellm_cache.config.schema import TrainingConfig


def trains_in_bf16(config: TrainingConfig, device: torch.device) -> bool:
    """Whether a step computes in bfloat16; "auto" does on a GPU or with bfloat16 weights."""
    if config.precision == "auto":
        return device.type == "cuda" or config.param_dtype == "bf16"
    return config.precision == "bf16"


def training_autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Autocast for the forward passes of a training step: bfloat16 or float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=trains_in_bf16(config, device))


def validation_autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Autocast for validation: bfloat16 for bfloat16 weights, else float32, the precision in
    which a finished run answers."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.param_dtype == "bf16")
