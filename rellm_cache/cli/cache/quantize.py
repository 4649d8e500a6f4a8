"""rellm cache quantize: a store made from a store."""

import json
from pathlib import Path

import click

from rellm_cache.cli.cache.arguments import store_argument
from rellm_cache.cli.options import byte_size, json_option, percent
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted


@click.command()
@store_argument
@json_option
def quantize(store: Path, as_json: bool) -> None:
    """Make an int8 store beside the float16 STORE: half the size.

    Killed at any moment, the same command goes on; after another `rellm extract` it adds the new
    clips. A recipe reads it with dtype = "int8" in [encoders.speech] or [encoders.emotion].
    """
    from rellm_cache.cache_admin.quantize import quantize as run

    report = run(store)
    if as_json:
        click.echo(json.dumps(report.to_json()))
        return
    click.echo(
        f"{display_path(report.path)}: {counted(report.written, 'clip')} quantised, "
        f"{counted(report.present, 'was', 'were')} there already, {byte_size(report.bytes)}"
    )
    click.echo(
        f"Rounded by {percent(report.relative_rms)} RMS; channel {report.worst_channel} "
        f"is worst, {percent(report.worst_channel_rms)} of its deviation; "
        f"{report.clipped:.2g} of values clipped"
    )
