"""What the processes of a run tell one another. In: one's value. Out: the same in all of them."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


def main_says(accelerator: Accelerator, value: int) -> int:
    """The main process's value, in every process; all of them must ask."""
    if accelerator.num_processes == 1:
        return value
    own = int(value) if accelerator.is_main_process else 0
    told = accelerator.reduce(torch.tensor([own], device=accelerator.device), "sum")
    return int(told.item())


def gathered(accelerator: Accelerator, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of every process, of equal shapes, stacked on the CPU: (...) -> (processes, ...)."""
    return {
        name: accelerator.gather(tensor.to(accelerator.device).unsqueeze(0)).cpu()
        for name, tensor in state.items()
    }
