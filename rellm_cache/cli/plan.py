"""rellm plan: what extraction and training would take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli.options import (
    batch_size_option,
    byte_size,
    cache_option,
    json_option,
    manifest_argument,
    print_table,
    recipe_option,
    set_option,
)
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.planning.plan import Plan
    from rellm_cache.planning.training import TrainingPlan


@click.command()
@manifest_argument
@recipe_option
@set_option
@cache_option
@batch_size_option(16, "Clips encoded at a time, for the estimate of memory.")
@click.option(
    "--clips",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Clips that are encoded here, to estimate time and memory.",
)
@click.option(
    "--gpu-gb",
    type=click.FloatRange(min=0, min_open=True),
    help="Memory of the GPU that is to train, in GB, CUDA's own included; without it, training "
    "on this machine.",
)
@click.option(
    "--tflops",
    type=click.FloatRange(min=0, min_open=True),
    help="Operations it really does a second, in 10^12, for the time of an epoch.",
)
@json_option
def plan(
    manifest: Path,
    recipe: str,
    overrides: tuple[str, ...],
    cache: Path,
    batch_size: int,
    clips: int,
    gpu_gb: float | None,
    tflops: float | None,
    as_json: bool,
) -> None:
    """Say what `rellm extract` and `rellm train` would take; nothing is written.

    Clips, hours and size by stream; time and memory are estimated from a few clips encoded here:
    time is their mean cost for each missing clip, memory is this process with the models loaded,
    a full batch as long as the longest of them, and the parts being written.

    What training takes is counted from the recipe, for the train split: no weights are loaded. On
    top come a GPU's own context, about 0.5 GB, and on a CPU the freed memory that glibc holds,
    often half as much again and more; MALLOC_MMAP_THRESHOLD_=131072 makes it give that back.
    """
    from rellm_cache.config.recipes import load_recipe

    settings = load_recipe(recipe, overrides)  # before what takes seconds to import
    from rellm_cache.planning.plan import plan as estimate

    room = None if gpu_gb is None else int(gpu_gb * 1e9)
    found = estimate(manifest, settings, cache, clips, batch_size, room)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        show(found)
        if found.training is None:
            click.echo(f"Training: not counted: {found.training_unknown}")
        else:
            show_training(found.training, room, tflops)
    if not found.fits:
        click.echo(
            f"Warning: {display_path(cache)}: {byte_size(found.needed_bytes)} needed, "
            f"{byte_size(found.free_bytes)} free; free some space or choose another --cache",
            err=True,
        )


def show(found: "Plan") -> None:
    """The figures as a table and lines."""
    extraction = found.extraction
    rows = [
        [
            Path(s.store).name,
            f"{s.present}",
            f"{s.missing}",
            f"{s.frame_size}",
            byte_size(s.bytes),
            duration(s.seconds),
        ]
        for s in extraction.streams
    ]
    title = f"{counted(found.clips, 'clip')}, {found.hours:.2f} h of audio"
    columns = ["store", "clips there", "missing", "values", "size of missing", "time"]
    print_table(title, columns, rows)
    if found.unreadable:
        click.echo(
            f"{counted(found.unreadable, 'clip')} cannot be read: `rellm extract` will list them"
        )
    timed = counted(extraction.timed_clips, "clip")
    estimated = f"estimated from {timed} on this machine, one process"
    click.echo(f"Time: {duration(extraction.seconds)}, {estimated}")
    gpu = f", {byte_size(extraction.gpu_bytes)} on the GPU" if extraction.gpu_bytes else ""
    click.echo(f"Memory: about {byte_size(extraction.memory_bytes)}{gpu}")
    click.echo(f"Disk: {byte_size(found.needed_bytes)} needed, {byte_size(found.free_bytes)} free")


def show_training(found: "TrainingPlan", room: int | None, tflops: float | None) -> None:
    """Memory by what takes it, and an epoch's operations."""
    from rellm_cache.planning.training import CONTEXT_BYTES

    rows = [
        ["frozen LLM", byte_size(found.llm_bytes)],
        [f"{found.trained / 1e6:.1f} M trained parameters", byte_size(found.trained_bytes)],
        [f"a micro-batch of {found.tokens} tokens", byte_size(found.step_bytes)],
        ["in all", byte_size(found.peak_bytes)],
    ]
    print_table("Training", ["memory of the device", "about"], rows)
    if found.host_bytes:
        click.echo(f"Input embeddings in host memory: {byte_size(found.host_bytes)}")
    if room is not None:
        verdict = "fits" if found.fits(room) else "does not fit"
        context = f"{byte_size(CONTEXT_BYTES)} of them CUDA's own"
        click.echo(f"It {verdict} into {byte_size(room)}, {context}")
        if not found.fits(room):
            click.echo(
                "Smaller: training.micro_batch_tokens, llm.activation_checkpointing=true, "
                'llm.offload_embeddings=true, training.optimizer="adamw8bit", adapter.preset="lite"'
            )
    time = f": {duration(found.operations / (tflops * 1e12))}" if tflops else ""
    click.echo(f"An epoch: {found.operations:.2g} operations{time}")


def duration(seconds: float | None) -> str:
    """Seconds as seconds, minutes or hours."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
