"""Peak operations a second of a device, to which the operations of a step are compared (MFU).

A GPU's peak is that of NVIDIA's data sheets: bfloat16 products of the tensor cores, without
sparsity, sums in float32. For other GPUs and for processors a product of two matrices is timed.
"""

import re
import time
from dataclasses import dataclass
from typing import Final

import torch

from rellm_cache.utils.devices import device_name

# Name that CUDA gives, as a pattern -> 10^12 operations a second.
GPU_TFLOPS: Final = {
    "H200|H100 80GB HBM3": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "RTX 6000 Ada Generation": 364.2,
    "L40S": 362.0,
    "A100-.*|A100 80GB PCIe": 312.0,
    "L40": 181.0,
    "GeForce RTX 4090": 165.2,
    "RTX A6000": 154.8,
    "A10": 125.0,
    "L4": 121.0,
    "GeForce RTX 3090": 71.0,
}
SIZES: Final = {"cpu": 1024, "cuda": 8192}  # rows and columns of the matrices
TURNS: Final = 20
SECONDS: Final = 2.0  # at most, after the first turn


@dataclass(frozen=True)
class Peak:
    """Most operations a second, and where the number is from."""

    operations: float
    source: str


def find_peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The known peak of a GPU in bfloat16; else the best of some products of that dtype."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        tflops = known_tflops(device_name(device))
        if tflops:
            return Peak(tflops * 1e12, "NVIDIA's data sheet, bfloat16 without sparsity")
    size, kind = SIZES[device.type], str(dtype).removeprefix("torch.")
    return Peak(measure_product(size, device, dtype), f"a measured product, {size} x {size} {kind}")


def known_tflops(name: str) -> float | None:
    """The peak of a GPU with this name, in 10^12 operations a second; None if it is not known."""
    found = (t for p, t in GPU_TFLOPS.items() if re.fullmatch(f"NVIDIA (?:{p})", name))
    return None if "MIG" in name else next(found, None)


def measure_product(size: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of some products of two square matrices."""
    left, right = torch.randn(2, size, size, device=device, dtype=dtype).unbind()
    best, end = 0.0, float("inf")
    for turn in range(TURNS):
        begun = time.perf_counter()
        torch.mm(left, right)
        wait_for(device)
        now = time.perf_counter()
        if turn:  # the first one starts libraries
            best = max(best, 2 * size**3 / (now - begun))
        end = min(end, now + SECONDS)
        if best and now > end:
            break
    return best


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
