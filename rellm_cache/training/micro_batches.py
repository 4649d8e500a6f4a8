"""Micro-batches: which clips of an optimizer step go through the model together.

An optimizer step always has `batch_size` times `gradient_accumulation` clips. Its losses and
gradients are sums over all of them, so the split into micro-batches changes only the rounding. The
limit of a micro-batch is a number of clips (`training.micro_batch_tokens = 0`), a number of tokens,
or the number of tokens that fits into memory ("auto").
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rellm_cache.config.schema import TrainingConfig
from rellm_cache.data.batch import Batch, Example
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import memory_budget

FIRST_TOKENS = 512  # first limit of "auto" without an LLM; with one it is `llm.pack_length`


class MicroBatcher:
    """Splits the clips of a step into micro-batches up to a limit.

    "auto" starts with one packed row of tokens. It raises the limit after it has measured the
    memory of a micro-batch. Running out of memory halves any limit permanently.

    Args:
        first_tokens: first limit of "auto".
        costs: utterance id → tokens, or 1 if micro-batches are counted in clips.

    Attributes:
        limit: most tokens (or clips) in a micro-batch; a single clip may exceed it.
    """

    def __init__(self, config: TrainingConfig, first_tokens: int, costs: Mapping[str, int]) -> None:
        wanted = config.micro_batch_tokens
        self._costs = costs
        self._first = first_tokens
        self.limit = self._first if wanted == "auto" else wanted or config.batch_size
        self._settled = wanted != "auto"

    @property
    def is_measuring(self) -> bool:
        """Whether the memory use of micro-batches is still being measured."""
        return not self._settled

    def cost(self, batch: Batch) -> int:
        """Tokens (or clips) of a micro-batch."""
        return sum(self._costs[name] for name in batch.ids)

    def split(self, indices: Sequence[int], examples: Sequence[Example]) -> list[list[int]]:
        """Split indices of examples into micro-batches; keep the order."""
        parts: list[list[int]] = []
        left = 0
        for index in indices:
            cost = self._costs[examples[index].id]
            if not parts or cost > left:
                parts.append([])
                left = self.limit
            parts[-1].append(index)
            left -= cost
        return parts

    def update_limit(self, cost: int, used_bytes: int, device: torch.device) -> None:
        """Raise the limit by the bytes used; ignored if `cost` is below half the limit."""
        if self._settled or cost < self.limit // 2:
            return
        wanted = int(memory_budget(device) / max(used_bytes, 1) * cost) // self._first * self._first
        self._settled = wanted <= self.limit
        if self._settled:
            say(f"training.micro_batch_tokens: up to {self.limit} tokens fit")
        else:
            self.limit = wanted

    def halve_limit(self, cost: int) -> None:
        """Halve the limit permanently, after a micro-batch of this cost ran out of memory."""
        self.limit = (min(self.limit, cost) + 1) // 2
        self._settled = True

    def state(self) -> Tensor:
        """(2,) int64: the limit, and 1 if it is final, else 0."""
        return torch.tensor([self.limit, int(self._settled)])

    def load_state(self, state: Tensor) -> None:
        """Restore what `state()` returned."""
        self.limit, settled = (int(value) for value in state)
        self._settled = bool(settled)


def example_tokens(
    model: SpeechLLM, examples: Sequence[Example], frames: Sequence[int]
) -> dict[str, int]:
    """Tokens of each utterance id, given its number of frames."""
    embeddings = model.adapter.output_lengths(torch.tensor(frames, dtype=torch.long)).tolist()
    return {e.id: model.tokens(n, e.targets) for e, n in zip(examples, embeddings, strict=True)}


class ActivationMeter:
    """Memory of one micro-batch: on a GPU its peak, on a CPU the activations kept for backward."""

    def __init__(self, device: torch.device, weights: Iterable[Tensor]) -> None:
        self._device = device
        self._seen = {weight.untyped_storage().data_ptr() for weight in weights}
        self._kept = self._before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Context of the forward pass."""
        if self._device.type == "cuda":
            yield
            return
        with torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor):
            yield

    def used_bytes(self) -> int:
        """Bytes used; call it after the backward pass."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return self._kept

    def _count(self, tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if tensor.grad_fn is not None and address not in self._seen:
            self._seen.add(address)
            self._kept += tensor.untyped_storage().nbytes()
        return tensor
