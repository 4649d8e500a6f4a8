"""rellm prepare datasets, webdataset: sound that stays in parquet, Arrow and tar files."""

from pathlib import Path
from typing import Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.prepare.report import EXIT_CODES, prepare_and_show
from rellm_cache.cli.prepare.table import table_options


@click.command(epilog=EXIT_CODES)
@click.argument("name", type=options.ANY_PATH)
@table_options
@click.option("--config", default="", help="Configuration of the data set, where it has several.")
@click.option("--revision", default="", help="Branch, tag or commit of a hub id.")
@click.option(
    "--audio-folder",
    default="",
    metavar="FOLDER",
    help="Folder of the sound files, where the audio column has paths; the default is the data "
    "set's own folder.",
)
def datasets(name: Path, out: Path, **given: Any) -> int:
    """A data set of the Hugging Face library datasets.

    NAME is a folder with parquet files or of save_to_disk, one such file, or a hub id as
    OWNER/NAME. Sound stays in the files. Loading scripts are never run.
    """
    return prepare_and_show("datasets", name, out, **given)


@click.command(epilog=EXIT_CODES)
@click.argument("shards", type=options.ANY_PATH)
@table_options
def webdataset(shards: Path, out: Path, **given: Any) -> int:
    """Shards of WebDataset.

    SHARDS is a tar file, a folder of them, or a pattern as 'shards-{000..009}.tar' in quotation
    marks. Columns are the keys of a sample's .json, and its other files by their extension. Sound
    stays in the tar files.
    """
    return prepare_and_show("webdataset", shards, out, **given)
