"""Gradients of an optimizer step, summed over micro-batches in float32 or in 8 bits.

With `training.gradient_dtype = "int8"` a gradient is packed right after a backward pass has
computed it: blocks of 256 numbers of 8 bits with a float32 scale each (Dettmers et al., 2022, as
the moments of `adamw8bit`). The next micro-batch is added in float32 and the sum is packed again.
Norm, clipping and update unpack one tensor at a time, so no two of them are in full at once. As in
`adamw8bit`, tensors with fewer than 4,096 values stay in float32.
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.training.distributed import sum_gradients
from rellm_cache.training.master_weights import MasterWeights

BLOCK = 256  # values with one scale
MIN_VALUES = 4096  # of a tensor whose gradient is packed
CHUNK = 2**20  # values of a tensor that are added at once, in whole blocks


class PackedSum:
    """Sum of one tensor's gradients, in 8 bits; empty at first."""

    def __init__(self) -> None:
        self._chunks: list[tuple[Tensor, Tensor]] = []  # codes (n,) uint8, scales (n / 256,)

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def clear(self) -> None:
        """Make it empty."""
        self._chunks = []

    def add(self, gradient: Tensor) -> None:
        """Add a float32 gradient, and round the sum.

        A sum that is not finite stays so: its scales are not finite either.
        """
        for index, part in enumerate(torch.split(gradient.reshape(-1), CHUNK)):
            if index < len(self._chunks):
                self._chunks[index] = _packed(_unpacked(*self._chunks[index]).add_(part))
            else:
                self._chunks.append(_packed(part))

    def take_from(self, tensor: Tensor) -> None:
        """Move a tensor's gradient here, if it has one."""
        if tensor.grad is not None:
            self.add(tensor.grad)
            tensor.grad = None

    def give_to(self, tensor: Tensor) -> None:
        """Move the sum, if there is one, to a tensor's gradient."""
        if self._chunks:
            tensor.grad = self.take().view_as(tensor)

    def norm(self) -> Tensor:
        """() float32: norm of the sum."""
        parts = [torch.linalg.vector_norm(_unpacked(*chunk)) for chunk in self._chunks]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(parts))
        return norm

    def take(self) -> Tensor:
        """(n,) float32: the sum; empty afterwards."""
        chunks, self._chunks = self._chunks, []
        size = sum(len(codes) for codes, _ in chunks)
        total = torch.empty(size, device=chunks[0][0].device)
        for part, chunk in zip(torch.split(total, CHUNK), chunks, strict=True):
            part.copy_(_unpacked(*chunk))
        return total


class SummedGradients:
    """Gradients of all trained tensors: in full in `.grad` of the masters, or packed.

    Args:
        in_8_bits: whether gradients of large tensors are packed after each backward pass.
    """

    def __init__(self, masters: MasterWeights, in_8_bits: bool) -> None:
        self._tensors = list(masters.tensors.values())
        large = [t for t in self._tensors if in_8_bits and t.numel() >= MIN_VALUES]
        self._packed = {tensor: PackedSum() for tensor in large}
        self._factor = torch.ones(())  # of the packed ones, from clipping
        for name, tensor in masters.tensors.items():
            if tensor in self._packed:
                masters.after_gradient(name, self._packed[tensor].take_from)

    def clear(self) -> None:
        """Drop all gradients."""
        for tensor in self._tensors:
            tensor.grad = None
        for packed in self._packed.values():
            packed.clear()

    def sum_over_processes(self, accelerator: Accelerator) -> None:
        """Replace every gradient with its sum over all processes; packed ones one by one."""
        sum_gradients(accelerator, [t for t in self._tensors if t not in self._packed])
        for tensor, packed in self._packed.items():
            packed.give_to(tensor)
            sum_gradients(accelerator, [tensor])
            packed.take_from(tensor)

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients to a norm of `max_norm` if it is larger.

        Returns:
            () float32: norm before clipping; not finite if a gradient is not.
        """
        norm = nn.utils.get_total_norm([t.grad for t in self._tensors if t.grad is not None])
        packed = [packed.norm() for packed in self._packed.values() if packed]
        if packed:
            norm = torch.linalg.vector_norm(torch.stack([norm.to(packed[0].device), *packed]))
        nn.utils.clip_grads_with_norm_(self._tensors, max_norm, norm)
        self._factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch has it
        return norm

    def update(self, adamw: torch.optim.Optimizer) -> None:
        """Update the masters with the clipped gradients, and drop these.

        AdamW skips tensors without a gradient, so one call for each packed gradient is the same
        update as one call for all.
        """
        adamw.step()
        for tensor in self._tensors:
            tensor.grad = None
        for tensor, packed in self._packed.items():
            packed.give_to(tensor)
            if tensor.grad is not None:
                tensor.grad.mul_(self._factor)
                adamw.step()
                tensor.grad = None


def _packed(values: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) float32 -> codes (n,) uint8, scales (n / 256,) float32."""
    codes, state = bitsandbytes.functional.quantize_blockwise(values, blocksize=BLOCK)
    norm = torch.linalg.vector_norm(values)  # bitsandbytes drops NaN
    return codes, torch.where(norm.isfinite(), state.absmax, norm)


def _unpacked(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes and scales -> (n,) float32."""
    values: Tensor = bitsandbytes.functional.dequantize_blockwise(
        codes, absmax=scales, blocksize=BLOCK
    )
    return values
