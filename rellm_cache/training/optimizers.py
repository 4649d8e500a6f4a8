"""Optimisers. In: float32 tensors, a recipe's `[training]`. Out: AdamW in one of its forms.

AdamW (Loshchilov and Hutter, 2019) keeps two float32 moments a weight. bitsandbytes' 8-bit form
keeps them in blocks of 8-bit numbers with a scale each (Dettmers et al., 2022), a quarter of the
memory; the paged form lets the GPU's driver move them to host memory when the GPU is full. Tensors
of fewer than 4,096 weights keep float32 moments there.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rellm_cache.config.schema import TrainingConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.bitsandbytes_import import bitsandbytes

FORMS: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "adamw8bit": bitsandbytes.optim.AdamW8bit,
    "paged_adamw8bit": bitsandbytes.optim.PagedAdamW8bit,
}


def make_optimiser(
    tensors: Iterable[Tensor], config: TrainingConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser a recipe names, with weight decay on matrices and convolutions alone.

    Raises:
        ConfigError: it does not run on this device.
    """
    if config.optimiser == "paged_adamw8bit" and device.type != "cuda":
        raise ConfigError(
            f'training.optimiser = "paged_adamw8bit" needs a CUDA GPU and the device is '
            f'{device.type}; "adamw" and "adamw8bit" run here'
        )
    kept = list(tensors)
    groups = [
        {"params": [t for t in kept if t.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [t for t in kept if t.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser: torch.optim.Optimizer = FORMS[config.optimiser](groups, lr=config.learning_rate)
    return optimiser


def load_state(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go back to what `optimiser.state_dict()` gave, paged moments to paged memory.

    Raises:
        ValueError: the state is another model's.
    """
    if not isinstance(optimiser, bitsandbytes.optim.PagedAdamW8bit):
        optimiser.load_state_dict(state)
        return
    optimiser.load_state_dict(state, move_to_device=False)
    for tensor, own in optimiser.state.items():
        for name in ("state1", "state2"):
            paged = optimiser.get_state_buffer(tensor, dtype=own[name].dtype)
            own[name] = paged.copy_(own[name])
    optimiser.to_gpu()
