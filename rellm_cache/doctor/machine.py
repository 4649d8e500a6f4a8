"""Processor, threads, memory, GPU and 4-bit kernels of this machine."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Final

import torch

from rellm_cache.doctor.checks import Check
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.loading import keep_weights_unpacked
from rellm_cache.utils.devices import BF16_FLAGS, cpu_flags, device_name, machine_memory

FLAGS: Final = ("avx2", "avx512f", *BF16_FLAGS)
LEAST_MEMORY: Final = 4e9  # bytes: the demo's peak is below 3 GB
NVIDIA: Final = Path("/proc/driver/nvidia/version")  # is there where a driver is loaded
SIZE: Final = 256  # rows and columns of the matrix that is quantized as a trial
NF4_ERROR: Final = 0.12  # mean relative error of NF4 on normal weights is about 0.08
GRADIENT_ERROR: Final = 1e-4


def check_processor() -> list[Check]:
    """Check instruction sets, threads and memory."""
    group, device = "processor", torch.device("cpu")
    cores = len(os.sched_getaffinity(0))
    flags = cpu_flags()
    have = ", ".join(flag for flag in FLAGS if flag in flags) or "none of " + ", ".join(FLAGS)
    found = [Check(group, "model", "ok", f"{device_name(device)}, {cores} cores for this process")]
    if platform.machine() in ("x86_64", "AMD64") and flags and "avx2" not in flags:
        fix = "expect several times longer; choose a machine with AVX2 where you can"
        found.append(Check(group, "instructions", "warning", have, fix))
    else:
        found.append(Check(group, "instructions", "ok", have if flags else platform.machine()))
    threads = torch.get_num_threads()
    if threads > cores:
        fix = f"export OMP_NUM_THREADS={cores}"
        found.append(Check(group, "threads", "warning", f"{threads} on {cores} cores", fix))
    else:
        found.append(Check(group, "threads", "ok", f"{threads} of PyTorch"))
    total, free = machine_memory()
    text = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    if free < LEAST_MEMORY:
        fix = f"end other programs: the small models need {LEAST_MEMORY / 1e9:.0f} GB"
        found.append(Check(group, "memory", "warning", text, fix))
    else:
        found.append(Check(group, "memory", "ok", text))
    return found


def check_gpu() -> list[Check]:
    """Check the GPU, its driver and memory, and whether PyTorch can use it."""
    group = "GPU"
    if not torch.cuda.is_available():
        if NVIDIA.exists():
            fix = (
                "pip install --force-reinstall torch, in a build for the driver's CUDA version "
                "(see pytorch.org)"
            )
            build = torch.version.cuda or "no CUDA"
            text = f"a driver is loaded, but PyTorch {torch.__version__} ({build}) cannot use it"
            return [Check(group, "device", "error", text, fix)]
        return [Check(group, "device", "ok", "none: everything runs on the processor")]
    found = []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        major, minor = torch.cuda.get_device_capability(device)
        free, total = torch.cuda.mem_get_info(device)
        text = (
            f"{device_name(device)}, compute capability {major}.{minor}, driver "
            f"{_driver_version()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        )
        if torch.cuda.is_bf16_supported(including_emulation=False):
            found.append(Check(group, f"device {index}", "ok", text))
        else:
            fix = "training uses bfloat16, which is slow here; choose an Ampere GPU or newer"
            found.append(Check(group, f"device {index}", "warning", text + ", no bfloat16", fix))
    return found


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return (answer.stdout.splitlines() or ["unknown"])[0].strip()


def check_four_bits(device: torch.device) -> Check:
    """Check that a 4-bit layer of bitsandbytes computes products and gradients on a device.

    A random matrix is quantized. Its product must be near the unquantized one, and the gradient
    after a pass without gradients must be that of the unpacked weights: on processors with
    AVX512-BF16, bitsandbytes would repack the weights in that pass, and later gradients would be
    wrong.
    """
    group, name = "4-bit weights", f"NF4 on {device.type}"
    fix = "pip install --upgrade bitsandbytes; until then --set llm.quantization=none"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(SIZE, SIZE, generator=generator)
    inputs = torch.randn(4, SIZE, generator=generator).to(device, dtype).requires_grad_()
    try:
        layer = bitsandbytes.nn.Linear4bit(
            SIZE, SIZE, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True
        )
        layer.weight = bitsandbytes.nn.Params4bit(
            weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        layer = layer.to(device).eval()
        keep_weights_unpacked(layer)
        with torch.no_grad():
            layer(inputs)
        product = layer(inputs)  # (4, SIZE)
        product.sum().backward()
        unpacked = bitsandbytes.functional.dequantize_4bit(
            layer.weight.data, layer.weight.quant_state
        ).float()  # (SIZE, SIZE)
    except Exception as error:  # a missing kernel raises errors of many types
        reason = " ".join(str(error).split())[:200]
        return Check(group, name, "error", f"{type(error).__name__}: {reason}", fix)
    exact = weight.to(device)
    relative = float((unpacked - exact).norm() / exact.norm())
    gradient = inputs.grad
    expected = unpacked.sum(0).expand_as(inputs).to(dtype)  # (4, SIZE)
    wrong = 1.0
    if gradient is not None:
        wrong = float((gradient.float() - expected.float()).norm() / expected.float().norm())
    text = f"error of the weights {relative:.3f}, of the gradient {wrong:.1g}"
    allowed = GRADIENT_ERROR if dtype is torch.float32 else 0.02
    if not (relative < NF4_ERROR and wrong < allowed):
        return Check(group, name, "error", f"{text}; expected < {NF4_ERROR}, < {allowed}", fix)
    return Check(group, name, "ok", text)
