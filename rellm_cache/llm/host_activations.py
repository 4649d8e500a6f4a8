"""Activations in host memory between the forward and the backward pass.

With activation checkpointing, the inputs of the layers are all that a forward pass keeps. Here each
is copied to page-locked host memory when its layer has begun, and back while the layer after it
runs again, on a CUDA stream of its own. On other devices the copies are made at once; on a CPU they
only cost time, and the result is the same.
"""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

Run = Callable[..., Any]  # runs a layer and keeps its inputs


def host_copies(run: Run) -> Run:
    """Make a checkpointing function keep inputs in host memory.

    All layers of a model share one such function: a forward pass calls it once a layer.
    """
    keeper = HostActivations()

    def run_and_copy(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(keeper.keep, keeper.give_back):
            return run(*args, **kwargs)

    return run_and_copy


class HostActivations:
    """Tensors in host memory; one that is given back has the one before it fetched ahead."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._last: Callable[[], Kept | None] = _nothing

    def keep(self, tensor: Tensor) -> "Kept | Tensor":
        """Copy a tensor to the host. Small ones, and those without a gradient, stay."""
        if not tensor.requires_grad or tensor.ndim < 3:
            return tensor
        on_gpu = tensor.device.type == "cuda"
        host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=on_gpu)
        if on_gpu:
            stream = self._stream(tensor.device)
            stream.wait_stream(torch.cuda.current_stream(tensor.device))
            with torch.cuda.stream(stream):
                host.copy_(tensor.detach(), non_blocking=True)
            tensor.record_stream(stream)
        else:
            host.copy_(tensor.detach())
        kept = Kept(host, tensor.device, self._last)
        self._last = weakref.ref(kept)  # the graph holds it, and drops it if there is no backward
        return kept

    def give_back(self, kept: "Kept | Tensor") -> Tensor:
        """The tensor on its device again; the one kept before it is fetched meanwhile."""
        if isinstance(kept, Tensor):
            return kept
        tensor = kept.fetched if kept.fetched is not None else self._fetch(kept)
        if kept.device.type == "cuda":
            current = torch.cuda.current_stream(kept.device)
            current.wait_stream(self._stream(kept.device))
            tensor.record_stream(current)
        kept.fetched = None
        if (before := kept.before()) is not None:
            before.fetched = self._fetch(before)
        return tensor

    def _fetch(self, kept: "Kept") -> Tensor:
        on_gpu = kept.device.type == "cuda"
        with torch.cuda.stream(self._stream(kept.device)) if on_gpu else nullcontext():
            return kept.host.to(kept.device, non_blocking=on_gpu)

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's is untyped
            self._streams[device] = stream
        return self._streams[device]


def _nothing() -> None:
    """No tensor was kept before the first."""


class Kept:
    """A tensor in host memory.

    Attributes:
        before: a call gives the one kept before it, None if there is none any more.
        fetched: its copy on the device, if it was fetched ahead.
    """

    def __init__(
        self, host: Tensor, device: torch.device, before: "Callable[[], Kept | None]"
    ) -> None:
        self.host, self.device, self.before = host, device, before
        self.fetched: Tensor | None = None
