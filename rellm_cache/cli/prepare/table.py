"""rellm prepare folder: audio files described by a table."""

from pathlib import Path
from typing import Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.prepare.report import EXIT_CODES, prepare_and_show

COLUMNS = (
    "audio", "id", "text", "emotion", "speaker", "split", "arousal", "dominance", "valence",
)  # fmt: skip


def column_options(command: options.Command) -> options.Command:
    """Add an option for the name of each column."""
    for name in reversed(COLUMNS):
        command = click.option(
            f"--{name}-column", default=name, help=f"Name of the column with the {name}."
        )(command)
    return command


@click.command(epilog=EXIT_CODES)
@click.argument("table", type=options.EXISTING_FILE)
@options.out("Folder for the manifest.")
@column_options
@click.option(
    "--vad-scale",
    type=(float, float),
    default=(0.0, 1.0),
    help="Lowest and highest value of the dimensions, for example 1 5; they are stored as 0..1.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    help="Split of rows without one.",
)
@options.clip_seconds
@options.overwrite
def folder(table: Path, vad_scale: tuple[float, float], split: str, **others: Any) -> int:
    """Audio files with a table.

    TABLE is a CSV or JSON Lines file beside the audio files.
    """
    from rellm_cache.corpus.readers.table import Columns, read_folder

    columns = Columns(**{name: others.pop(f"{name}_column") for name in COLUMNS})
    return prepare_and_show(read_folder(table, columns, vad_scale, split), **others)
