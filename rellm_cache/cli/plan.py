"""rellm plan: estimate time, memory and disk of extraction and training."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import byte_size, print_json, print_table
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted, duration

if TYPE_CHECKING:
    from rellm_cache.planning.plan import Plan
    from rellm_cache.planning.savings import Fit
    from rellm_cache.planning.training import TrainingPlan


@click.command()
@options.manifest_argument
@options.recipe
@options.cache
@options.batch_size(16, "Clips encoded together, for the estimate of memory.")
@click.option(
    "--clips",
    type=options.COUNT,
    default=4,
    help="Clips to encode now, to estimate time and memory.",
)
@click.option(
    "--gpu-gb",
    type=options.FiniteRange(min=0, min_open=True),
    help="Total memory of the GPU for training, in GB. Without this option, training is counted "
    "for this machine.",
)
@click.option(
    "--tflops",
    type=options.FiniteRange(min=0, min_open=True),
    help="Speed that the GPU really reaches, in 10^12 operations a second, to estimate the time of "
    "an epoch.",
)
@options.as_json
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
    """Estimate time, memory and disk of extraction and training.

    MANIFEST is a manifest file or folder. Nothing is written. For extraction a few clips are
    encoded now: the time is their mean multiplied by the number of missing clips; the memory is
    that of this process with the models, a full batch of the longest of these clips, and the parts
    being written.

    Training is counted from the recipe and the train split, without loading weights. Not counted
    are a GPU's own context (about 0.5 GB) and, on a CPU, freed memory that glibc keeps, often half
    as much again or more; with MALLOC_MMAP_THRESHOLD_=131072 glibc returns it.

    With --gpu-gb, if training does not fit, the options are printed that make it fit at the least
    cost in time.
    """
    from rellm_cache import api

    gpu_bytes = None if gpu_gb is None else int(gpu_gb * 1e9)
    found = api.plan(
        recipe,
        manifest,
        cache,
        set=overrides,
        clips=clips,
        batch_size=batch_size,
        gpu_bytes=gpu_bytes,
    )
    if as_json:
        print_json(found.to_json())
    else:
        show(found)
        if found.training is None:
            click.echo(f"Training: not counted: {found.training_unknown}")
        else:
            show_training(found.training, gpu_bytes, tflops)
            if gpu_bytes is not None and not found.training.fits(gpu_bytes):
                show_savings(found.savings)
    if not found.fits:
        click.echo(
            f"Warning: {display_path(cache)}: {byte_size(found.needed_bytes)} needed, "
            f"{byte_size(found.free_bytes)} free; free some space or choose another --cache",
            err=True,
        )


def show(found: "Plan") -> None:
    """Print the plan of extraction."""
    extraction = found.extraction
    rows = [
        [
            s.name,
            Path(s.store).name,
            s.present,
            s.missing,
            s.frame_size,
            byte_size(s.bytes),
            duration(s.seconds),
        ]
        for s in extraction.streams
    ]
    title = f"{counted(found.clips, 'clip')}, {found.hours:.2f} h of audio"
    columns = ["stream", "store", "clips there", "missing", "values", "size of missing", "time"]
    print_table(title, columns, rows)
    if found.unusable:
        click.echo(f"{counted(found.unusable, 'clip')} cannot be used; `rellm extract` lists them")
    if not any(stream.missing for stream in extraction.streams):
        click.echo("Nothing to encode: the cache has every clip")
        return
    timed = counted(extraction.timed_clips, "clip")
    click.echo(
        f"Time: {duration(extraction.seconds)}, estimated from {timed} on this machine, one process"
    )
    gpu = f", {byte_size(extraction.gpu_bytes)} on the GPU" if extraction.gpu_bytes else ""
    click.echo(f"Memory: about {byte_size(extraction.memory_bytes)}{gpu}")
    click.echo(f"Disk: {byte_size(found.needed_bytes)} needed, {byte_size(found.free_bytes)} free")


def show_training(found: "TrainingPlan", gpu_bytes: int | None, tflops: float | None) -> None:
    """Print memory by its use, and the operations of an epoch."""
    from rellm_cache.planning.training import CONTEXT_BYTES

    rows = [
        ["frozen LLM", byte_size(found.llm_bytes)],
        [f"{found.trained / 1e6:.1f} M trained parameters", byte_size(found.trained_bytes)],
        [f"a micro-batch of {found.tokens} tokens", byte_size(found.step_bytes)],
        ["total", byte_size(found.peak_bytes)],
    ]
    print_table("Training", ["memory of the device", "about"], rows)
    if found.host_bytes:
        click.echo(f"Input embeddings in host memory: {byte_size(found.host_bytes)}")
    if gpu_bytes is not None:
        verdict = "fits" if found.fits(gpu_bytes) else "does not fit"
        context = f"{byte_size(CONTEXT_BYTES)} used by CUDA"
        click.echo(f"It {verdict} into {byte_size(gpu_bytes)}, with {context}")
    time = f": {duration(found.operations / (tflops * 1e12))}" if tflops else ""
    click.echo(f"An epoch: {found.operations:.2g} operations{time}")


def show_savings(found: "Fit | None") -> None:
    """Print the options with which training fits."""
    if found is None:
        click.echo(
            "No set of options that keeps the model fits; to reduce memory further: "
            'training.micro_batch_tokens, llm.pack_length, adapter.preset="lite"'
        )
        return
    click.echo(f"It fits with these options, {byte_size(found.training.peak_bytes)} in all:")
    for line in found.lines:
        click.echo(f"  {line}")
