"""Devices: CPU or GPU, CPU threads, memory and random state."""

import os
import platform
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from rellm_cache.version import __version__

Work = Literal["heads", "models"]

DEFAULT_THREADS = torch.get_num_threads()  # of this process, unless it sets another number
BF16_FLAGS = ("avx512_bf16", "amx_bf16")  # instruction sets with products of bfloat16
GPU_SHARE = 0.9  # of free GPU memory; the rest is for the allocator's gaps


def default_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def threads_each(processes: int) -> int:
    """Return the CPU threads of each of several processes that share this one's cores."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


@contextmanager
def use_threads(work: Work) -> Iterator[None]:
    """Run a block with the number of CPU threads that suits its work.

    Adapter and heads use one: two are no faster, and on a busy CPU they wait for each other at
    every small operation. Encoders and LLMs use all. `OMP_NUM_THREADS`, or a number that the
    process has set, takes precedence.
    """
    before = torch.get_num_threads()
    is_set = "OMP_NUM_THREADS" in os.environ or before != DEFAULT_THREADS
    if work == "heads" and not is_set:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forward_batch_size(device: torch.device, batch_size: int) -> int:
    """Return how many clips of a batch an encoder takes in one forward pass: one on a CPU.

    On a CPU a batch saves no time, and rounding in matrix products depends on the batch. A clip
    encoded alone always gives the same bits.
    """
    return 1 if device.type == "cpu" else batch_size


def device_name(device: torch.device) -> str:
    """Return the product name of the GPU or the processor."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor, as Linux names them; none where it does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split()[2:])


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Return device, dtype and versions, as every part of a store records them."""
    return {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "rellm": __version__,
    }


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the states (uint8) of torch's random generators that a model on this device uses."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned; a GPU's state is skipped on a CPU."""
    # Copies: torch reads from the start of a view's memory and may crash.
    torch.set_rng_state(state["cpu"].clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that GPU or host memory is exhausted."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def memory_budget(device: torch.device) -> int:
    """Return how many more bytes may be allocated.

    On a GPU it is `GPU_SHARE` of what is free for this process. On a CPU it is a quarter of the
    memory of the machine or container, used or not, so that it is the same each time.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        taken = torch.cuda.memory_allocated(device)
        allowed = int(total * torch.cuda.get_per_process_memory_fraction(device)) - taken
        return int(GPU_SHARE * min(free + torch.cuda.memory_reserved(device) - taken, allowed))
    return machine_memory()[0] // 4


def machine_memory() -> tuple[int, int]:
    """Return the bytes of memory of this machine or container: all, and free or easily freed."""
    page = os.sysconf("SC_PAGE_SIZE")
    whole = page * os.sysconf("SC_PHYS_PAGES")
    limit = min(whole, _read_number(Path("/sys/fs/cgroup/memory.max"), whole))
    used = _read_number(Path("/sys/fs/cgroup/memory.current"), 0) if limit < whole else 0
    available = page * os.sysconf("SC_AVPHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        available = next(1024 * int(s.split()[1]) for s in lines if s.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass  # not Linux: pages of files count as used
    return limit, min(available, limit - used)


def peak_resident_bytes() -> int:
    """Return the most memory that this process has had resident, pages of mapped files included."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:  # the number below counts the parent's memory too, where it began this process
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next((1024 * int(s.split()[1]) for s in lines if s.startswith("VmHWM:")), 0)


def _read_number(path: Path, default: int) -> int:
    try:
        text = path.read_text("utf-8").strip()
    except OSError:
        return default
    return int(text) if text.isdecimal() else default
