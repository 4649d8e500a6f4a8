"""Communication between the processes of a run: broadcast, gather, sum of gradients."""

from collections.abc import Iterable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


def broadcast_from_main(accelerator: Accelerator, value: int) -> int:
    """Return the main process's value in every process. All processes must call it."""
    if accelerator.num_processes == 1:
        return value
    own = int(value) if accelerator.is_main_process else 0
    total = accelerator.reduce(torch.tensor([own], device=accelerator.device), "sum")
    return int(total.item())


def gather_stacked(accelerator: Accelerator, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack tensors of equal shape from every process on the CPU: (...) -> (processes, ...)."""
    return {
        name: accelerator.gather(tensor.to(accelerator.device).unsqueeze(0)).cpu()
        for name, tensor in state.items()
    }


def sum_by_name(accelerator: Accelerator, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum scalars over all processes in one exchange; all must have the same names."""
    if accelerator.num_processes == 1 or not values:
        return dict(values)
    sums = accelerator.reduce(torch.stack(list(values.values())), "sum")
    return dict(zip(values, sums.unbind(), strict=True))


def sum_gradients(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Replace every gradient with its sum over all processes."""
    kept = list(tensors)
    unflatten_gradients(kept, accelerator.reduce(flatten_gradients(kept), "sum"))


def flatten_gradients(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate all gradients (zeros if missing), then a flag for each: 1 if present, else 0."""
    kept = list(tensors)
    parts = [(torch.zeros_like(t) if t.grad is None else t.grad).reshape(-1) for t in kept]
    present = torch.tensor([float(t.grad is not None) for t in kept], device=kept[0].device)
    return torch.cat([*parts, present])


def unflatten_gradients(tensors: Iterable[Tensor], flat: Tensor) -> None:
    """Set gradients from summed `flatten_gradients`; missing in all processes means None."""
    kept = list(tensors)
    *parts, present = torch.split(flat, [*(t.numel() for t in kept), len(kept)])
    for tensor, part, count in zip(kept, parts, present.tolist(), strict=True):
        tensor.grad = part.view_as(tensor).clone() if count else None
