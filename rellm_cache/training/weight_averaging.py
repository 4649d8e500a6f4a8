"""Weight averaging over the last steps of a run.

The mean of the weights over many steps generalizes better than the last weights and costs no extra
training (Izmailov et al., "Averaging weights leads to wider optima and better generalization",
2018).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rellm_cache.errors import RunError
from rellm_cache.training.master_weights import MasterWeights


class WeightAverage:
    """Running float32 mean of the master weights from step `first_step` on, counted from 0."""

    def __init__(self, masters: MasterWeights, first_step: int) -> None:
        self._masters = masters
        self._first_step = first_step
        self._count = 0
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after the step with this number, from 0."""
        if step < self._first_step:
            return
        self._count += 1
        for name, tensor in self._masters.tensors.items():
            if self._count == 1:
                self._means[name] = tensor.detach().clone()
            else:
                self._means[name].lerp_(tensor, 1 / self._count)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the model has the mean weights; no effect before the first update."""
        if not self._count:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in self._masters.tensors.items()}
        self._set(self._means)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, weights: Mapping[str, Tensor]) -> None:
        for name, tensor in self._masters.tensors.items():
            tensor.copy_(weights[name])
        self._masters.copy_to_parameters()

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """The mean and the number of steps in it."""
        return {"count": self._count, "means": {n: m.cpu() for n, m in self._means.items()}}

    def load_state_dict(self, state: Mapping[str, int | dict[str, Tensor]]) -> None:
        """Set the mean; `RunError` if the state has other tensor names."""
        count, means = state["count"], state["means"]
        tensors: Mapping[str, nn.Parameter] = self._masters.tensors
        if not isinstance(count, int) or not isinstance(means, dict):
            raise RunError(f"averaged weights: found {type(means).__name__}, expected tensors")
        if means.keys() != (tensors.keys() if count else set()):
            raise RunError(f"averages of {len(means)} tensors, expected {len(tensors)}")
        self._count = count
        self._means = {name: mean.to(tensors[name].device) for name, mean in means.items()}
