"""Micro-batches. In: the clips of an optimiser step. Out: which go through the model together.

An optimiser step is `batch_size` times `accumulation` clips, whatever the memory. Its losses and
gradients are sums over all of them, so how they are cut into micro-batches changes rounding alone.
The cut is by clips (`training.tokens_per_step = 0`), by tokens, or by what memory holds ("auto").
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Batch, Example
from rellm_cache.model.adapter import output_lengths
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.utils.console import say
from rellm_cache.utils.devices import memory_room

FIRST_TOKENS = 512  # of "auto" without an LLM, whose `row_tokens` is the first guess otherwise


class Budget:
    """How much goes through the model at once.

    "auto" begins with one row of tokens, then takes as many as the memory that a micro-batch of
    known size took says there is room for. A lack of memory halves any budget for good.

    Args:
        costs: of each utterance id: tokens, or 1 where micro-batches are counted in clips.

    Attributes:
        limit: most tokens (or clips) in a micro-batch; one clip may be more by itself.
    """

    def __init__(self, recipe: Recipe, costs: Mapping[str, int]) -> None:
        wanted = recipe.training.tokens_per_step
        self._costs = costs
        self._first = recipe.llm.row_tokens if recipe.llm else FIRST_TOKENS
        self.limit = self._first if wanted == "auto" else wanted or recipe.training.batch_size
        self._settled = wanted != "auto"

    @property
    def learning(self) -> bool:
        """Whether the memory of micro-batches is still to be measured."""
        return not self._settled

    def cost(self, batch: Batch) -> int:
        """Tokens (or clips) of a micro-batch."""
        return sum(self._costs[name] for name in batch.ids)

    def split(self, share: Sequence[int], examples: Sequence[Example]) -> list[list[int]]:
        """Indices of examples in their order, cut into micro-batches."""
        parts: list[list[int]] = []
        room = 0
        for index in share:
            cost = self._costs[examples[index].id]
            if not parts or cost > room:
                parts.append([])
                room = self.limit
            parts[-1].append(index)
            room -= cost
        return parts

    def learn(self, cost: int, taken: int, device: torch.device) -> None:
        """Raise the limit by what a micro-batch of some cost took, in bytes; small ones tell
        nothing."""
        if self._settled or cost < self.limit // 2:
            return
        wanted = int(memory_room(device) / max(taken, 1) * cost) // self._first * self._first
        self._settled = wanted <= self.limit
        if self._settled:
            say(f"training.tokens_per_step: up to {self.limit} tokens fit")
        else:
            self.limit = wanted

    def halve(self, cost: int) -> None:
        """Lower the limit for good: a micro-batch of this cost found no room."""
        self.limit = (min(self.limit, cost) + 1) // 2
        self._settled = True

    def state(self) -> Tensor:
        """(2,) int64 to go on from."""
        return torch.tensor([self.limit, int(self._settled)])

    def load(self, state: Tensor) -> None:
        """Go back to a state."""
        self.limit, settled = (int(value) for value in state)
        self._settled = bool(settled)


def example_costs(
    model: SpeechLLM, examples: Sequence[Example], frames: Sequence[int]
) -> dict[str, int]:
    """What a budget counts of each utterance of so many frames, by id."""
    if not model.recipe.training.tokens_per_step:
        return dict.fromkeys((e.id for e in examples), 1)
    heard = torch.tensor(frames, dtype=torch.long)
    if model.adapter.crop_frames:
        heard = heard.clamp(max=model.adapter.crop_frames)
    embeddings = output_lengths(heard).tolist()
    return {e.id: model.tokens(n, e.targets) for e, n in zip(examples, embeddings, strict=True)}


class Meter:
    """Bytes that a micro-batch takes: on a GPU its peak, on a CPU what its forward pass keeps.

    Args:
        weights: that train; they are there anyway.
    """

    def __init__(self, device: torch.device, weights: Iterable[Tensor]) -> None:
        self._device = device
        self._known = {weight.untyped_storage().data_ptr() for weight in weights}
        self._kept = self._before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around the forward pass."""
        if self._device.type == "cuda":
            yield
            return
        with torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor):
            yield

    def taken(self) -> int:
        """After the backward pass."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return self._kept

    def _count(self, tensor: Tensor) -> Tensor:
        """Count the memory of an activation once; weights have no history."""
        place = tensor.untyped_storage().data_ptr()
        if tensor.grad_fn is not None and place not in self._known:
            self._known.add(place)
            self._kept += tensor.untyped_storage().nbytes()
        return tensor
