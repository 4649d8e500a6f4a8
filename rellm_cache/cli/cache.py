"""rellm cache: what the cache holds, and stores made from stores."""

import json
from pathlib import Path

import click

from rellm_cache.cli.options import json_option, megabytes, percent, print_table


@click.group()
def cache() -> None:
    """Look at the feature cache and change its form."""


@cache.command()
@click.argument(
    "root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("cache")
)
@json_option
def info(root: Path, as_json: bool) -> None:
    """What each store under ROOT holds: encoder, clips, hours, size, licence."""
    from rellm_cache.stages.cache_info import cache_info

    stores = cache_info(root)
    if as_json:
        click.echo(json.dumps({"root": str(root), "stores": [s.to_json() for s in stores]}))
        return
    rows = [
        [
            s.name,
            f"{s.clips}",
            f"{s.hours:.2f}",
            f"{s.frame_size}",
            megabytes(s.bytes),
            f"{s.parts}",
            f"{s.failed}",
            s.licence,
        ]
        for s in stores
    ]
    columns = ["store", "clips", "hours", "values", "size", "parts", "failed", "licence"]
    print_table(str(root), columns, rows)


@cache.command()
@click.argument("store", type=click.Path(path_type=Path, exists=True, file_okay=False))
@json_option
def quantize(store: Path, as_json: bool) -> None:
    """Make an int8 store beside the float16 STORE: half the size, read twice as fast.

    Killed at any moment, the same command goes on; after another `rellm extract` it adds the new
    clips. A recipe reads it with dtype = "int8" in [encoders.speech] or [encoders.emotion].
    """
    from rellm_cache.stages.quantize import quantize as run

    report = run(store)
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    click.echo(
        f"{report.path}: {report.written} clips quantised, {report.present} were there already, "
        f"{megabytes(report.bytes)}"
    )
    click.echo(
        f"error: {percent(report.relative_rms)} RMS of the frames; channel {report.worst_channel} "
        f"is worst, {percent(report.worst_channel_rms)} of its deviation; "
        f"{report.clipped:.2g} of values clipped"
    )
