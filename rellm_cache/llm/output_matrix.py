"""Output matrix of a frozen LLM: as it is, or in 4 bits and unpacked by blocks of the vocabulary.

Qwen-7B's takes 1.2 GB in bfloat16 and 0.32 GB in NF4. In 4 bits only one block of rows exists in
full at a time: `BlockedSums` passes over the blocks twice, so that logits of the whole vocabulary
never exist either.

Letters: N hidden states, H hidden size, V vocabulary, v rows of a block.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rellm_cache.errors import ConfigError
from rellm_cache.llm.bitsandbytes_import import bitsandbytes

BLOCK = 4096  # rows that are unpacked at a time; two blocks exist while one replaces the other
LOWEST = -1e30  # below every logit, and finite: -inf minus itself is no number


class QuantizedOutput(nn.Module):
    """A frozen (V, H) output matrix in NF4 with double quantization, block by block.

    It stands in place of the LLM's own output layer.

    Args:
        weight: the matrix; blocks are unpacked to its dtype.
        rows: rows of a block.
    """

    def __init__(self, weight: Tensor, rows: int = BLOCK) -> None:
        super().__init__()
        self.shape = weight.shape
        self.dtype = weight.dtype
        self.device = weight.device
        self._rows = rows
        self._blocks: list[tuple[Tensor, Any]] = [
            self._pack(weight[start : start + rows].detach())
            for start in range(0, len(weight), rows)
        ]

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each block and the block (v, H)."""
        for index in range(len(self._blocks)):
            yield index * self._rows, self._unpack(index)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, V) logits of hidden states (…, H)."""
        logits = hidden.new_empty(*hidden.shape[:-1], len(self))
        for start, block in self.blocks():
            logits[..., start : start + len(block)] = hidden @ block.T
        return logits

    def dense(self) -> Tensor:
        """(V, H) the whole matrix, unpacked."""
        return torch.cat([block for _, block in self.blocks()])

    def _pack(self, block: Tensor) -> tuple[Tensor, Any]:
        packed: tuple[Tensor, Any] = bitsandbytes.functional.quantize_4bit(
            block.contiguous(), blocksize=64, compress_statistics=True, quant_type="nf4"
        )
        return packed

    def _unpack(self, index: int) -> Tensor:
        block: Tensor = bitsandbytes.functional.dequantize_4bit(*self._blocks[index])
        return block


OutputMatrix = Tensor | QuantizedOutput


def logits_of(states: Tensor, output: OutputMatrix) -> Tensor:
    """(N, V) logits of hidden states (N, H) in the dtype of the matrix."""
    if isinstance(output, QuantizedOutput):
        logits: Tensor = output(states)
        return logits
    return states @ output.T


class BlockedSums:
    """Sums over the vocabulary for N hidden states, from two passes over the blocks of a matrix.

    The first pass is made here: `logs` is (N, 1), the logarithm of the sum of exp(logit) over all
    tokens but those of `ids`; `found` is (N, K), the logits of these.

    Args:
        states: (N, H) in the dtype of the matrix.
        ids: (N, K) tokens to tell apart.
        temperature: logits are divided by it.
        included: whether the tokens of `ids` are in the sum too.
    """

    def __init__(
        self,
        states: Tensor,
        output: QuantizedOutput,
        ids: Tensor,
        temperature: float = 1.0,
        included: bool = True,
    ) -> None:
        self._states, self._output, self._ids = states, output, ids
        self._temperature, self._included = temperature, included
        self.found = torch.zeros(ids.shape, device=states.device)
        largest = torch.full((len(states), 1), LOWEST, device=states.device)
        sums = torch.zeros_like(largest)
        for logits, inside, places, _ in self._logits():
            self.found = torch.where(inside, logits.gather(1, places), self.found)
            self._leave_out(logits, inside, places)
            top = torch.maximum(largest, logits.amax(1, keepdim=True))
            sums = sums.mul_((largest - top).exp_())
            sums += logits.sub_(top).exp_().sum(1, keepdim=True)
            largest = top
        self.logs = sums.log_().add_(largest)  # (N, 1)

    def gradient(self, factor: Tensor | None, slopes: Tensor) -> Tensor:
        """(N, H) float32: sum over tokens of slope times row, in the second pass.

        Args:
            factor: (N, 1) times exp(logit - logs), the slope of a token in the sum; None is 1.
            slopes: (N, K), added for the tokens of `ids`.
        """
        gradient = torch.zeros(self._states.shape, device=self._states.device)
        for logits, inside, places, block in self._logits():
            self._leave_out(logits, inside, places)
            each = logits.sub_(self.logs).exp_()  # (N, v)
            if factor is not None:
                each.mul_(factor)
            each.scatter_add_(1, places, slopes * inside)
            gradient += (each.to(block.dtype) @ block).float()
        return gradient

    def _logits(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each block: logits (N, v) in float32; which ids are in it and where; the block."""
        for start, block in self._output.blocks():
            logits = (self._states @ block.T).float()
            if self._temperature != 1.0:
                logits.div_(self._temperature)
            inside = (self._ids >= start) & (self._ids < start + len(block))  # (N, K)
            yield logits, inside, (self._ids - start).clamp(0, len(block) - 1), block

    def _leave_out(self, logits: Tensor, inside: Tensor, places: Tensor) -> None:
        if not self._included:
            # Ids of other blocks have places too, and leave what is there.
            bounds = torch.where(inside, -torch.inf, torch.inf)
            logits.scatter_reduce_(1, places, bounds, "amin")


def require_untied(model: Any, option: str, name: str) -> None:
    """Raise `ConfigError` if a model's output matrix is its input embeddings.

    Args:
        option: field of `[llm]` that would give the two different places or types.
        name: of the model.
    """
    table = model.get_input_embeddings().weight
    if getattr(model.get_output_embeddings(), "weight", None) is table:
        raise ConfigError(
            f"llm.{option} = true: {name} ties its input embeddings to its output matrix, which "
            f"the device needs as it is; set llm.{option} = false"
        )
