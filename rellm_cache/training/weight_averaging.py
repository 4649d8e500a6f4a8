"""Averaging weights. In: what an optimiser updates. Out: its mean over the last steps of a run.

The mean of weights along the way generalises better than where the way ends, at no cost of
training (Izmailov et al., "Averaging weights leads to wider optima and better generalization",
2018).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rellm_cache.errors import RunError
from rellm_cache.training.master_weights import Masters


class WeightAverage:
    """Running mean of the masters, in float32 on their device, from one step on.

    Args:
        masters: what the optimiser updates.
        first: number of the first step, from 0, after which weights count.
    """

    def __init__(self, masters: Masters, first: int) -> None:
        self._masters = masters
        self._first = first
        self._count = 0
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, number: int) -> None:
        """Count the weights after the step with this number, from 0."""
        if number < self._first:
            return
        self._count += 1
        for name, tensor in self._masters.tensors.items():
            if self._count == 1:
                self._means[name] = tensor.detach().clone()
            else:
                self._means[name].lerp_(tensor, 1 / self._count)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the mean as its weights, if there is one yet; then as it was."""
        if not self._count:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in self._masters.tensors.items()}
        self._put(self._means)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in self._masters.tensors.items():
            tensor.copy_(weights[name])
        self._masters.spread()

    def state(self) -> dict[str, int | dict[str, Tensor]]:
        """The mean and of how many steps it is."""
        return {"count": self._count, "means": {n: m.cpu() for n, m in self._means.items()}}

    def load(self, state: Mapping[str, int | dict[str, Tensor]]) -> None:
        """Go back to a state; `RunError` if it is of other tensors."""
        count, means = state["count"], state["means"]
        tensors: Mapping[str, nn.Parameter] = self._masters.tensors
        if not isinstance(count, int) or not isinstance(means, dict):
            raise RunError(f"averaged weights: found {type(means).__name__}, expected tensors")
        if means.keys() != (tensors.keys() if count else set()):
            raise RunError(f"averages of {len(means)} tensors, expected {len(tensors)}")
        self._count = count
        self._means = {name: mean.to(tensors[name].device) for name, mean in means.items()}
