"""rellm extract: encode clips and store their frames in the cache."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import SOME_FAILED
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.extraction.run import StreamReport


@click.command()
@options.manifest_argument
@options.recipe
@options.cache
@options.batch_size(16, "Clips decoded and encoded together. A CPU encodes them one by one.")
@options.workers("clip", "the clips are encoded")
@click.option(
    "--commit-seconds",
    type=options.FiniteRange(min=0),
    default=60.0,
    help="Commit encoded clips at least this often; a kill loses at most this much work.",
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
    """Encode all clips of a manifest that the cache lacks.

    MANIFEST is a manifest file or folder. If the command is killed, run it again to continue.
    Ctrl-C stops and commits the encoded clips; press it three times to stop without committing.
    Clips with changed audio are encoded again.

    Exit code 3: done, but some clips failed. They are listed in a file beside the store.
    """
    from rellm_cache import api

    reports = api.extract(
        recipe,
        manifest,
        cache,
        set=overrides,
        batch_size=batch_size,
        workers=workers or 0,
        shard=shard,
        ray=ray,
        commit_seconds=commit_seconds,
    )
    for report in reports:
        show(report)
    if any(report.encoded for report in reports):
        forward = sum(report.seconds for report in reports)
        click.echo(f"Took {reports[0].wall_seconds:.1f} s; the encoders computed {forward:.1f} s")
    return SOME_FAILED if any(report.failed for report in reports) else 0


def show(report: "StreamReport") -> None:
    """Print the result for one store."""
    from rellm_cache.store.format import failures_path

    where = display_path(report.path)
    if report.encoded:
        rate = report.encoded / max(report.wall_seconds, 1e-9)
        click.echo(
            f"{where}: {counted(report.encoded, 'clip')} encoded ({report.hours:.2f} h, "
            f"{rate:.1f} clips/s), {report.present} already present"
        )
    elif report.failed:
        click.echo(f"{where}: no clip encoded, {report.present} already present")
    else:
        present = counted(report.present, "clip is", "clips are")
        click.echo(f"{where}: nothing to do, {present} present")
    if report.changed:
        click.echo(
            f"  {counted(report.changed, 'id')} had other audio before; the new frames replace "
            "the old ones"
        )
    if report.failed:
        failed = counted(report.failed, "clip")
        click.echo(f"  {failed} failed, see {display_path(failures_path(report.path))}")
