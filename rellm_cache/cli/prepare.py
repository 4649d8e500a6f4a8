"""rellm prepare: a corpus's own folder becomes a manifest."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli.options import CLIPS_FAILED, print_table

if TYPE_CHECKING:
    from rellm_cache.stages.prepare import PrepareReport

out_option = click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the manifest.",
)
limits = (
    click.option(
        "--min-seconds", default=1.0, show_default=True, help="Shorter clips are left out."
    ),
    click.option(
        "--max-seconds", default=30.0, show_default=True, help="Longer clips are left out."
    ),
)


@click.group()
def prepare() -> None:
    """Turn a corpus into a manifest: every clip decoded once, usable ones kept."""


@prepare.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@out_option
@click.option("--train-speakers", default="1-16", show_default=True, help="As 1-16 or 1,3,5-8.")
@click.option("--validation-speakers", default="17,18", show_default=True)
@click.option("--test-speakers", default="19-20", show_default=True)
@limits[0]
@limits[1]
def ravdess(
    root: Path,
    out: Path,
    train_speakers: str,
    validation_speakers: str,
    test_speakers: str,
    min_seconds: float,
    max_seconds: float,
) -> int:
    """RAVDESS speech (folders Actor_01 …), split by speaker; five emotions."""
    from rellm_cache.corpus.ravdess import read_ravdess
    from rellm_cache.ranges import parse_ranges

    splits = {
        "train": frozenset(parse_ranges(train_speakers, "speakers")),
        "validation": frozenset(parse_ranges(validation_speakers, "speakers")),
        "test": frozenset(parse_ranges(test_speakers, "speakers")),
    }
    from rellm_cache.stages.prepare import prepare as run

    return show(run(read_ravdess(root, splits), out, min_seconds, max_seconds))


@prepare.command()
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
@limits[0]
@limits[1]
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
    from rellm_cache.corpus.folder import Columns, read_folder
    from rellm_cache.stages.prepare import prepare as run

    named = Columns(**{key.removesuffix("_column"): value for key, value in columns.items()})
    return show(run(read_folder(table, named, vad_scale, split), out, min_seconds, max_seconds))


def show(report: "PrepareReport") -> int:
    """Print what was kept and left out."""
    emotions = sorted({e for counts in report.emotions.values() for e in counts})
    rows = [
        [split, str(count), *(str(report.emotions[split].get(e, 0)) for e in emotions)]
        for split, count in report.kept.items()
    ]
    print_table(f"{report.hours:.2f} hours of audio", ["split", "clips", *emotions], rows)
    for note in report.notes:
        click.echo(note)
    if report.excluded:
        click.echo(f"{len(report.excluded)} clips left out, listed in {report.out}/excluded.jsonl:")
        for row in report.excluded[:10]:
            click.echo(f"  {row['id']}: {row['reason']}")
    click.echo(f"Manifest: {report.out}")
    return CLIPS_FAILED if report.unreadable else 0
