"""rellm cache quantize: make an int8 store from a float16 store."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import byte_size, print_json
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted, percent


@click.command()
@options.store_argument
@options.as_json
def quantize(store: Path, as_json: bool) -> None:
    """Make an int8 store of half the size beside the float16 STORE.

    If the command is killed, run it again to continue. After another `rellm extract` it adds the
    new clips. A recipe reads the store with dtype = "int8" in its table [encoders.NAME].
    """
    from rellm_cache.cache_admin.quantize import quantize as run

    report = run(store)
    if as_json:
        print_json(report.to_json())
        return
    click.echo(
        f"{display_path(report.path)}: {counted(report.written, 'clip')} quantized, "
        f"{report.present} already present, {byte_size(report.bytes)}"
    )
    click.echo(
        f"RMS rounding error {percent(report.relative_rms)}; largest in channel "
        f"{report.worst_channel}: {percent(report.worst_channel_rms)} of its standard deviation; "
        f"{report.clipped:.2g} of values clipped"
    )
