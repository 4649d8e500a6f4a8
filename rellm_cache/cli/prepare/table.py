"""rellm prepare folder: audio files described by a table."""

from pathlib import Path
from typing import Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.prepare.report import EXIT_CODES, prepare_and_show

COLUMNS = (
    "audio", "id", "text", "response", "emotion", "speaker", "split", "arousal", "dominance",
    "valence", "vad", "vad_source",
)  # fmt: skip
CONTENTS = {
    "response": "the answer that the LLM is to learn",
    "vad": "arousal, dominance, valence as one list",
    "vad_source": "where the dimensions come from: human, pseudo (a model) or made (a generator's "
    "settings)",
}


def column_options(command: options.Command) -> options.Command:
    """Add an option for the name of each column."""
    for name in reversed(COLUMNS):
        command = click.option(
            f"--{name.replace('_', '-')}-column",
            default=name,
            help=f"Name of the column with {CONTENTS.get(name, f'the {name}')}.",
        )(command)
    return command


def table_options(command: options.Command) -> options.Command:
    """Add the options of every corpus that has rows with named columns."""
    for add in reversed(
        (
            options.out("Folder for the manifest."),
            column_options,
            click.option(
                "--vad-scale",
                type=(float, float),
                default=(0.0, 1.0),
                help="Lowest and highest value of the dimensions, for example 1 5; they are stored "
                "as 0..1.",
            ),
            click.option(
                "--split",
                type=click.Choice(["train", "validation", "test"]),
                default="train",
                help="Split of rows without one.",
            ),
            click.option(
                "--labels",
                default="",
                metavar="keep|FILE",
                help="keep takes the table's emotions as they are, in lower case; a JSON file maps "
                'them, as {"hap": "happy"}. Otherwise unknown emotions are an error.',
            ),
            options.clip_limits,
            options.split_long,
            options.overwrite,
        )
    ):
        command = add(command)
    return command


@click.command(epilog=EXIT_CODES)
@click.argument("table", type=options.EXISTING_FILE)
@table_options
def folder(table: Path, out: Path, **given: Any) -> int:
    """Audio files with a table.

    TABLE is a CSV or JSON Lines file beside the audio files. An audio path may be a member of a tar
    or zip archive, as archive.zip#clips/001.wav, or bytes of one, as archive.zip:OFFSET:LENGTH.
    """
    return prepare_and_show("folder", table, out, **given)
