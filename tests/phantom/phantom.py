"""A GPU that is not there. In: nothing; importing it changes torch. Out: `PHANTOM`, a device.

Its tensors hold their values in host memory, so that results are right, and refuse what a GPU
refuses: to be computed with tensors of the host. So a machine without a GPU can show that nothing
is left behind on the host. What is done for "cuda" alone (streams, page-locked memory, CUDA's own
kernels, memory limits) is not done for it.

torch lets one backend be written in Python, once a process: import this in a process of its own,
before anything that runs models.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "phantom"
aten = torch.ops.aten
# A GPU takes these from the host: copies, and indices of its own tensors.
TAKES_HOST_TENSORS = (
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
)


class _Backend:
    """What torch asks of a module `torch.phantom`."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Random numbers are the host's, whose generator is seeded already."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class PhantomTensor(Tensor):
    """A tensor on the phantom device; `held` has its values, on the host."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "PhantomTensor":
        made: PhantomTensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=PHANTOM,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        """All is done by `__new__`."""

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: object) -> "PhantomTensor":
        return PhantomTensor(inner["held"])

    def tolist(self) -> Any:
        return self.detach().held.tolist()

    def __getitem__(self, index: Any) -> Tensor:
        """torch moves a list's numbers to the device by its short cut, see `_then_moved`."""
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _compute(operator, args, kwargs or {})


def _compute(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute on the host; the result is where a GPU's would be.

    Raises:
        RuntimeError: tensors of the host are among those of the phantom.
    """
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    ours = any(isinstance(x, PhantomTensor) for x in tensors)
    strangers = [x for x in tensors if not isinstance(x, PhantomTensor) and x.dim()]
    if ours and strangers and operator not in TAKES_HOST_TENSORS:
        raise RuntimeError(
            f"{operator}: a host tensor {tuple(strangers[0].shape)} of {strangers[0].dtype} among "
            "tensors of the GPU"
        )
    held_args, held_kwargs = tree_map(_held, (args, kwargs))
    wanted = kwargs.get("device")
    if wanted is not None:
        held_kwargs = {**held_kwargs, "device": torch.device("cpu")}
        ours_after = torch.device(wanted).type == NAME
    else:
        ours_after = ours
    result = operator(*held_args, **held_kwargs)
    if operator is aten.copy_.default:
        return args[0]
    if not ours_after:
        return result
    result = tree_map(lambda x: PhantomTensor(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(operator, args, kwargs, result) if ours else result


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PhantomTensor) else value


def _then_moved(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` as it is, but for the phantom, where its short cut to the device fails."""

    def made(*args: Any, **kwargs: Any) -> Tensor:
        device = kwargs.get("device")
        if device is None or torch.device(device).type != NAME:
            return make(*args, **kwargs)
        return make(*args, **{**kwargs, "device": None}).to(device)

    return made


def _inference_mode(mode: bool = True) -> AbstractContextManager[Any]:
    """Without gradients: tensors that are made in torch's own inference mode cannot be wrapped."""
    return torch.no_grad() if mode else nullcontext()


_setup_privateuseone_for_python_backend(NAME, _Backend())
PHANTOM = torch.device(NAME, 0)
_operators = torch.library.Library("_", "IMPL")  # in force while it is held
_operators.fallback(
    lambda operator, *args, **kwargs: _compute(operator, args, kwargs), "PrivateUse1"
)
_device_constructors()  # remembers torch's own before they are replaced
torch.tensor = _then_moved(torch.tensor)
torch.as_tensor = _then_moved(torch.as_tensor)
torch.inference_mode = _inference_mode
