"""rellm prepare folder: audio files described by a table."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from rellm_cache.cli.prepare.options import limits, out_option
from rellm_cache.cli.prepare.report import prepare_and_show


@click.command()
@click.argument("table", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@out_option
@click.option("--audio-column", default="audio", show_default=True)
@click.option("--id-column", default="id", show_default=True)
@click.option("--text-column", default="text", show_default=True)
@click.option("--emotion-column", default="emotion", show_default=True)
@click.option("--speaker-column", default="speaker", show_default=True)
@click.option("--split-column", default="split", show_default=True)
@click.option("--arousal-column", default="arousal", show_default=True)
@click.option("--dominance-column", default="dominance", show_default=True)
@click.option("--valence-column", default="valence", show_default=True)
@click.option(
    "--vad-scale",
    type=(float, float),
    default=(0.0, 1.0),
    show_default=True,
    help="Lowest and highest value of the dimensions, for example 1 5; they are stored as 0..1.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="Split of rows without one.",
)
@limits
def folder(table: Path, vad_scale: tuple[float, float], split: str, **options: Any) -> int:
    """Audio files with a table.

    TABLE is a CSV or JSON Lines file beside the audio files.
    """
    from rellm_cache.corpus.readers.table import Columns, read_folder

    columns = Columns(**{f.name: options.pop(f"{f.name}_column") for f in fields(Columns)})
    return prepare_and_show(read_folder(table, columns, vad_scale, split), **options)
