"""rellm prepare folder: any audio files beside a table."""

from pathlib import Path

import click

from rellm_cache.cli.prepare.arguments import limits, out_option
from rellm_cache.cli.prepare.show import show


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
    help="Lowest and highest value of the dimensions, as 1 5; stored as 0..1.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="Split of rows that name none.",
)
@limits
def folder(
    table: Path,
    out: Path,
    vad_scale: tuple[float, float],
    split: str,
    min_seconds: float,
    max_seconds: float,
    **columns: str,
) -> int:
    """Audio files beside TABLE, a CSV or JSON Lines file."""
    from rellm_cache.corpus.prepare import prepare as run
    from rellm_cache.corpus.readers.table import Columns, read_folder

    named = Columns(**{key.removesuffix("_column"): value for key, value in columns.items()})
    return show(run(read_folder(table, named, vad_scale, split), out, min_seconds, max_seconds))
