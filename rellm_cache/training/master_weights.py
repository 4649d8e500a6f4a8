"""Master weights: float32 copies of bfloat16 parameters, which the optimizer updates.

With `training.param_dtype = "bf16"` the forward pass reads the bfloat16 parameter, and small
updates add up in its float32 master (Micikevicius et al., "Mixed precision training", 2018). With
"fp32" a parameter is its own master.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rellm_cache.errors import RunError


class MasterWeights:
    """The float32 tensors that the optimizer updates, by name, with their gradients.

    With `bf16` the parameters become bfloat16 in place. Their gradients are added to the masters in
    float32 right after each backward pass, so that micro-batches are summed in float32 too.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], bf16: bool) -> None:
        self._parameters = dict(parameters) if bf16 else {}
        self.tensors: dict[str, nn.Parameter] = dict(parameters)
        for name, parameter in self._parameters.items():
            self.tensors[name] = nn.Parameter(parameter.detach().clone())
            parameter.data = parameter.data.bfloat16()
            hook = _add_gradient_to(self.tensors[name])
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch's is untyped

    def after_gradient(self, name: str, call: Callable[[Tensor], None]) -> None:
        """Call with a master each time a backward pass has added to its gradient.

        `call` may not refer to the master: Python cannot free a tensor whose hook does.
        """
        if name in self._parameters:
            call = _with(self.tensors[name], call)
        parameter = self._parameters.get(name, self.tensors[name])
        parameter.register_post_accumulate_grad_hook(call)  # type: ignore[no-untyped-call]  # torch's is untyped

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Round the masters into their bfloat16 parameters."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.tensors[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Masters of the bfloat16 parameters, on the CPU; empty for float32 parameters."""
        return {name: self.tensors[name].detach().cpu() for name in self._parameters}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set masters and parameters; `RunError` if the state has other parameter names."""
        if state.keys() != self._parameters.keys():
            raise RunError(
                f"master weights of {len(state)} parameters, expected {len(self._parameters)}"
            )
        for name, tensor in state.items():
            self.tensors[name].copy_(tensor)
        self.copy_to_parameters()


def _add_gradient_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    """Make a hook that moves a parameter's new gradient to its master."""

    def add(parameter: Tensor) -> None:
        if parameter.grad is not None:
            gradient = parameter.grad.to(master.dtype)
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

    return add


def _with(master: nn.Parameter, call: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """Make a hook of a parameter that calls with its master."""
    return lambda parameter: call(master)
