"""Where models run."""

import platform
from pathlib import Path

import torch


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
