"""rellm extract: encoders run once, frames go into the cache."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli.options import (
    CLIPS_FAILED,
    batch_size_option,
    cache_option,
    manifest_argument,
    recipe_option,
    set_option,
)
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.extraction.run import StreamReport


@click.command()
@manifest_argument
@recipe_option
@set_option
@cache_option
@batch_size_option(16, "Clips that go through the work together; a CPU encodes them one by one.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that share the work: one a GPU, or a few on a CPU. Each loads the models. "
    "Without it, this process does the work.",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Only the I-th of N shares of the clips, from 1/N to N/N, for job arrays. A clip's share "
    "follows from its id.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    default="",
    help="Let actors of this Ray cluster do the work: host:port, auto, or local.",
)
@click.option(
    "--commit-seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Commit what is encoded at least so often; a kill loses no more.",
)
def extract(
    manifest: Path,
    recipe: str,
    overrides: tuple[str, ...],
    cache: Path,
    batch_size: int,
    workers: int | None,
    shard: str | None,
    ray: str,
    commit_seconds: float,
) -> int:
    """Encode every clip of a manifest file or folder that the cache does not hold yet.

    Killed at any moment, the same command goes on. Ctrl-C commits what is encoded; pressed three
    times, it leaves without. Clips whose audio changed are encoded again.
    Exit code 3: done, but some clips failed; they are listed in a file beside the store.
    """
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.extraction.run import extract as run
    from rellm_cache.extraction.workers.options import Shard, WorkerOptions

    part = Shard.parse(shard) if shard else None
    options = WorkerOptions(workers or 0, ray, part, commit_seconds)
    reports = run(manifest, load_recipe(recipe, overrides), cache, batch_size, options=options)
    for report in reports:
        show(report)
    if any(report.encoded for report in reports):
        forward = sum(report.seconds for report in reports)
        click.echo(f"Took {reports[0].wall_seconds:.1f} s; the encoders computed {forward:.1f} s")
    return CLIPS_FAILED if any(report.failed for report in reports) else 0


def show(report: "StreamReport") -> None:
    """What happened to one store."""
    from rellm_cache.store.format import failures_path

    where = display_path(report.path)
    if report.encoded:
        rate = report.encoded / max(report.wall_seconds, 1e-9)
        click.echo(
            f"{where}: {counted(report.encoded, 'clip')} encoded ({report.hours:.2f} h, "
            f"{rate:.1f} clips/s), {counted(report.present, 'was', 'were')} there already"
        )
    elif report.failed:
        there = counted(report.present, "was", "were")
        click.echo(f"{where}: no clip encoded, {there} there already")
    else:
        there = counted(report.present, "clip is", "clips are")
        click.echo(f"{where}: nothing to do, {there} there")
    if report.changed:
        click.echo(
            f"  {counted(report.changed, 'id')} had other audio before: the new frames win, "
            "the old ones are not read any more"
        )
    if report.failed:
        failed = counted(report.failed, "clip")
        click.echo(f"  {failed} failed, see {display_path(failures_path(report.path))}")
