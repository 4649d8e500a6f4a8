"""Master weights. In: parameters that train. Out: the float32 tensors that an optimiser updates.

With `training.weights = "bf16"` a parameter is its float32 master rounded to bfloat16: arithmetic
reads the rounded one, small updates add up in the master (Micikevicius et al., "Mixed precision
training", 2018). With "fp32" a parameter is its own master.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rellm_cache.errors import RunError


class Masters:
    """What the optimiser updates for each parameter, with its gradient.

    The gradient of a bfloat16 parameter is added to its master's in float32 as soon as a backward
    pass has made it, so that micro-batches are summed in float32 too.

    Args:
        parameters: by name; turned to bfloat16 in place if `rounded`.
        rounded: whether parameters are bfloat16.

    Attributes:
        tensors: float32 master of each name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], rounded: bool) -> None:
        self._rounded = dict(parameters) if rounded else {}
        self.tensors: dict[str, nn.Parameter] = dict(parameters)
        for name, parameter in self._rounded.items():
            self.tensors[name] = nn.Parameter(parameter.detach().clone())
            parameter.data = parameter.data.bfloat16()
            hook = _add_to(self.tensors[name])
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch's is untyped

    @torch.no_grad()
    def spread(self) -> None:
        """Round the masters into their parameters."""
        for name, parameter in self._rounded.items():
            parameter.copy_(self.tensors[name])

    def state(self) -> dict[str, Tensor]:
        """What the parameters alone do not tell: the masters of rounded ones."""
        return {name: self.tensors[name].detach().cpu() for name in self._rounded}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state, and parameters with it; `RunError` if it names other parameters."""
        if state.keys() != self._rounded.keys():
            raise RunError(
                f"master weights of {len(state)} parameters, expected {len(self._rounded)}"
            )
        for name, tensor in state.items():
            self.tensors[name].copy_(tensor)
        self.spread()


def _add_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that moves a parameter's new gradient to its master."""

    def add(parameter: Tensor) -> None:
        if parameter.grad is not None:
            gradient = parameter.grad.to(master.dtype)
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    return add
