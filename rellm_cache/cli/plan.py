"""rellm plan: what an extraction would take."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli.options import (
    batch_size_option,
    cache_option,
    json_option,
    manifest_argument,
    megabytes,
    print_table,
    recipe_option,
    set_option,
)
from rellm_cache.store.origin import place

if TYPE_CHECKING:
    from rellm_cache.stages.plan import Plan


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
@json_option
def plan(
    manifest: Path,
    recipe: str,
    overrides: tuple[str, ...],
    cache: Path,
    batch_size: int,
    clips: int,
    as_json: bool,
) -> None:
    """Say what `rellm extract` would take for a manifest file or folder; nothing is written.

    Clips, hours and size by stream; time and memory are estimated from a few clips encoded here:
    time is their mean cost for each missing clip, memory is this process with the models loaded,
    a full batch as long as the longest of them, and the parts being written.
    """
    from rellm_cache.config import load_recipe
    from rellm_cache.stages.plan import plan as estimate

    found = estimate(manifest, load_recipe(recipe, overrides), cache, clips, batch_size)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        show(found)
    if not found.fits:
        click.echo(
            f"Warning: {place(cache)}: {megabytes(found.needed_bytes)} needed, "
            f"{megabytes(found.free_bytes)} free; free some space or choose another --cache",
            err=True,
        )


def show(found: "Plan") -> None:
    """The figures as a table and lines."""
    rows = [
        [
            Path(s.store).name,
            f"{s.present}",
            f"{s.missing}",
            f"{s.frame_size}",
            megabytes(s.bytes),
            duration(s.seconds),
        ]
        for s in found.streams
    ]
    title = f"{found.clips} clips, {found.hours:.2f} h of audio"
    columns = ["store", "clips there", "missing", "values", "size of missing", "time"]
    print_table(title, columns, rows)
    if found.unreadable:
        click.echo(f"{found.unreadable} clips cannot be read: `rellm extract` will list them")
    estimated = f"estimated from {found.timed_clips} clips on this machine, one process"
    click.echo(f"Time: {duration(found.seconds)}, {estimated}")
    gpu = f", {megabytes(found.gpu_bytes)} on the GPU" if found.gpu_bytes else ""
    click.echo(f"Memory: about {megabytes(found.memory_bytes)}{gpu}")
    click.echo(f"Disk: {megabytes(found.needed_bytes)} needed, {megabytes(found.free_bytes)} free")


def duration(seconds: float | None) -> str:
    """Seconds as seconds, minutes or hours."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
