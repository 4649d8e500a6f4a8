"""Where models run: which device, what memory and random state it has."""

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from rellm_cache import __version__

Work = Literal["heads", "models"]

DEFAULT_THREADS = torch.get_num_threads()  # of this process, where nobody set another number
GPU_SHARE = 0.9  # of what is left of a GPU that is taken: the rest is the allocator's gaps


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def threads_each(processes: int) -> int:
    """CPU threads for each of several processes that share the cores of this one."""
    return max(1, len(os.sched_getaffinity(0)) // processes)


@contextmanager
def use_threads(work: Work) -> Iterator[None]:
    """Run a block with as many CPU threads as its work gains from.

    Adapter and heads use one: two are no faster, and beside another program they wait for each
    other at every small operation. Encoders and LLMs use all. `OMP_NUM_THREADS`, or a number that
    the process has set, wins.
    """
    before = torch.get_num_threads()
    is_set = "OMP_NUM_THREADS" in os.environ or before != DEFAULT_THREADS
    if work == "heads" and not is_set:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clips_at_a_time(device: torch.device, batch_size: int) -> int:
    """Of a batch of so many clips, how many an encoder takes in one forward pass: on a CPU one.

    There a batch saves no time, and matrix products round differently in another batch: a clip by
    itself gives the same bits whatever its neighbours are.
    """
    return 1 if device.type == "cpu" else batch_size


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's own name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def describe_machine(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """What computes the rows of a store, as recorded in every part: they differ a little."""
    return {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "rellm": __version__,
    }


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of torch's generators that a model on this device draws from: uint8 by name."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Go back to what `random_state` gave; a GPU's state is left out where there is none."""
    # Copies, as torch reads from the beginning of a view's memory and may end the process.
    torch.set_rng_state(state["cpu"].clone())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a tensor found no room, on a GPU or in host memory."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def memory_room(device: torch.device) -> int:
    """Bytes that may be taken on top of what is: of a GPU `GPU_SHARE` of what is left to this
    process, of host memory a quarter of the machine's or container's, whatever else uses it, so
    that it is the same each time."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        taken = torch.cuda.memory_allocated(device)
        allowed = int(total * torch.cuda.get_per_process_memory_fraction(device)) - taken
        return int(GPU_SHARE * min(free + torch.cuda.memory_reserved(device) - taken, allowed))
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
    except OSError:
        limit = "max"
    return (whole if limit == "max" else min(whole, int(limit))) // 4
