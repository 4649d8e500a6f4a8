"""Measurement in this process: the LLM or random weights of its shape, then steps.

A limit on a GPU's memory is that of PyTorch's allocator; CUDA's own context is taken off it.
"""

import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import compute_dtype, load_chat, load_llm
from rellm_cache.llm.random_weights import random_llm
from rellm_cache.planning.training import CONTEXT_BYTES
from rellm_cache.speed.known_shapes import llm_shape
from rellm_cache.speed.made_data import made_chat
from rellm_cache.speed.peak import Peak, find_peak
from rellm_cache.speed.report import BenchReport
from rellm_cache.speed.run import BenchSettings
from rellm_cache.speed.steps import WARM_UP, MadeTraining, clips_a_step, with_clips_a_step
from rellm_cache.utils.console import counted, say
from rellm_cache.utils.devices import (
    default_device,
    describe_machine,
    peak_resident_bytes,
    use_threads,
)
from rellm_cache.utils.model_files import local_folder

USED_SHARE = 0.3  # of the peak: a guess at a step's, to choose its clips
LEAST_SECONDS = 20.0  # for which clips are chosen, even if less time is left


def measure(recipe: Recipe, settings: BenchSettings, end: float) -> BenchReport:
    """Measure steps of a recipe in this process until `time.monotonic()` is `end`; see `bench`."""
    device = default_device()
    if settings.memory_gb is not None:
        share = _memory_share(settings.memory_gb, device)
        torch.cuda.set_per_process_memory_fraction(share, device)
    with (
        use_threads("models" if recipe.needs_llm else "heads"),
        tempfile.TemporaryDirectory(prefix="rellm-bench-") as scratch,
    ):
        return _measure(recipe, settings, device, end, Path(scratch))


def _measure(
    recipe: Recipe, settings: BenchSettings, device: torch.device, end: float, out: Path
) -> BenchReport:
    dtype, start = compute_dtype(device), peak_resident_bytes()
    llm, weights, tokenizer = None, "none", "none"
    if recipe.used_llm:
        llm, weights, tokenizer = find_llm_or_random(recipe.used_llm, device, settings.random)
    peak = find_peak(device, dtype)
    training = _fitting(MadeTraining(recipe, llm, out), peak, end)
    say(f"Taking steps of {counted(training.clips, 'clip')} …")
    loading = _gpu_peak(device)
    times = training.step_times(end, settings.most_steps)
    tensors, reserved = map(max, loading, _gpu_peak(device))
    machine = describe_machine(device, dtype)
    return BenchReport(
        recipe=recipe.name,
        date=date.today().isoformat(),
        device=machine["device"],
        threads=0 if device.type == "cuda" else torch.get_num_threads(),
        dtype=machine["dtype"],
        versions={name: machine[name] for name in ("rellm", "torch")},
        cap_bytes=None if settings.memory_gb is None else int(settings.memory_gb * 1e9),
        llm=recipe.used_llm.model if recipe.used_llm else "",
        weights=weights,
        tokenizer=tokenizer,
        clips=training.clips,
        recipe_clips=clips_a_step(recipe),
        micro_batches=len(training.trainer.groups(0)[0]),
        tokens=training.tokens(),
        operations=training.operations(),
        warm_up=times.warm_up,
        step_seconds=sorted(times.seconds),
        processor_seconds=sum(times.processor_seconds),
        peak_operations=peak.operations,
        peak_source=peak.source,
        device_bytes=tensors,
        reserved_bytes=reserved,
        resident_bytes=peak_resident_bytes(),
        start_bytes=start,
    )


def find_llm_or_random(
    config: LLMConfig, device: torch.device, random: bool
) -> tuple[FrozenLLM, str, str]:
    """The LLM of a recipe where its folder is on this machine, else one of its shape.

    Returns:
        The LLM; whose weights ("its own" or "random") and tokenizer ("its own" or "made") it has.

    Raises:
        ConfigError: the folder cannot be used, or there is none and the shape is not known.
    """
    folder = local_folder(config.model, config.revision)
    is_here = folder is not None and any(folder.glob("*.safetensors"))
    if is_here and not random:
        say(f"Loading {config.model} …")
        return load_llm(config, device), "its own", "its own"
    say(f"Making random weights of the shape of {config.model} …")
    chat = load_chat(config) if is_here else made_chat()
    llm = random_llm(config, llm_shape(config), chat, device)
    return llm, "random", "its own" if is_here else "made"


def _fitting(training: MadeTraining, peak: Peak, end: float) -> MadeTraining:
    """The training itself, or one with fewer clips a step if its steps would take too long."""
    clip_seconds = training.operations() / training.clips / (USED_SHARE * peak.operations)
    left = max(LEAST_SECONDS, end - time.monotonic()) / (WARM_UP + 1)
    clips = max(1, int(left / clip_seconds))
    if clips >= training.clips:
        return training
    say(f"A step of {counted(training.clips, 'clip')} would take too long")
    recipe, llm, out = with_clips_a_step(training.recipe, clips), training.llm, training.trainer.out
    del training  # with its memory
    return MadeTraining(recipe, llm, out)


def _gpu_peak(device: torch.device) -> tuple[int, int]:
    """Most bytes of tensors, and of all that PyTorch's allocator had; 0 without a GPU."""
    if device.type != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def _memory_share(gigabytes: float, device: torch.device) -> float:
    """Share of the GPU's memory that PyTorch may take to imitate a GPU of so many GB.

    Raises:
        ConfigError: there is no GPU, it has less, or CUDA's context leaves nothing.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"--memory-gb {gigabytes:g} limits the memory of a GPU, but PyTorch finds none; leave "
            "it out"
        )
    total, wanted = torch.cuda.get_device_properties(device).total_memory, int(gigabytes * 1e9)
    if not CONTEXT_BYTES < wanted <= total:
        raise ConfigError(
            f"--memory-gb {gigabytes:g}: expected more than {CONTEXT_BYTES / 1e9:g}, which CUDA "
            f"itself takes, and at most the GPU's {total / 1e9:.1f}"
        )
    return (wanted - CONTEXT_BYTES) / total
