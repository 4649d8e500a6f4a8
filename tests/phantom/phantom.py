"""Simulated GPU: a torch device, `PHANTOM`. Importing this module changes torch.

Its tensors hold their values in host memory, so results are correct. As on a GPU, an operation that
mixes them with host tensors is an error. So a machine without a GPU can find tensors that were left
on the host. Features of "cuda" alone (streams, page-locked memory, CUDA's own kernels, memory
limits) are not simulated.

Its memory is counted. With `LEDGER.values_up_to` set, larger tensors have a shape but no values, so
a small machine can count the memory of a model of any size.

torch allows one backend in Python per process: import this module in a separate process, before any
module that runs models.
"""

import sys
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


class Ledger:
    """What the device's tensors take.

    Attributes:
        held: bytes of all storages that live now.
        peak: the most that `held` was.
        values_up_to: larger tensors, in values, have none; and so what is computed from them.
    """

    def __init__(self) -> None:
        self.held = self.peak = 0
        self.values_up_to = sys.maxsize
        self._holders: dict[int, list[int]] = {}  # storage -> tensors that hold it, bytes

    def hold(self, storage: torch.UntypedStorage) -> None:
        entry = self._holders.setdefault(storage._cdata, [0, storage.nbytes()])
        if not entry[0]:
            self.held += entry[1]
            self.peak = max(self.peak, self.held)
        entry[0] += 1

    def release(self, storage: int) -> None:
        entry = self._holders[storage]
        entry[0] -= 1
        if not entry[0]:
            self.held -= entry[1]
            del self._holders[storage]


LEDGER = Ledger()


class _Hold:
    """Lives as long as the tensor that it is an attribute of."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._storage = storage._cdata
        LEDGER.hold(storage)

    def __del__(self) -> None:
        LEDGER.release(self._storage)


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
    hold: _Hold

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
        made.hold = _Hold(held.untyped_storage())
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
    ours_after = ours if wanted is None else torch.device(wanted).type == NAME
    if any(_held(x).is_meta for x in tensors):
        held_args, held_kwargs = tree_map(_without_values, (held_args, held_kwargs))
        wanted = wanted and "meta"
    if wanted is not None:
        result = operator(*held_args, **{**held_kwargs, "device": "meta"})
        if wanted != "meta" and result.numel() <= LEDGER.values_up_to:
            result = operator(*held_args, **{**held_kwargs, "device": "cpu"})
    else:
        result = operator(*held_args, **held_kwargs)
    if operator is aten.copy_.default:
        return args[0]
    if not ours_after:
        return result
    result = tree_map(lambda x: PhantomTensor(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(operator, args, kwargs, result) if ours else result


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PhantomTensor) else value


def _without_values(value: Any) -> Any:
    """A mask selects as many rows as there are in it: it becomes their numbers first."""
    if not isinstance(value, Tensor) or value.is_meta:
        return value
    rows = value.nonzero().squeeze(1) if value.dtype == torch.bool and value.ndim == 1 else value
    return rows.to("meta")


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
_operators = torch.library.Library("_", "IMPL")  # kept: torch removes its kernels with it
_operators.fallback(
    lambda operator, *args, **kwargs: _compute(operator, args, kwargs), "PrivateUse1"
)
_device_constructors()  # remembers torch's own before they are replaced
torch.tensor = _then_moved(torch.tensor)
torch.as_tensor = _then_moved(torch.as_tensor)
torch.inference_mode = _inference_mode
