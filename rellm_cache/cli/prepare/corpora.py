"""rellm prepare iemocap, esd, msp-podcast, ravdess: corpora with known folders and totals."""

from pathlib import Path
from typing import Any

import click

from rellm_cache.cli.prepare.options import (
    limits,
    out_option,
    partial_option,
    root_argument,
    seed_option,
    splits_option,
)
from rellm_cache.cli.prepare.report import prepare_and_show


@click.command()
@root_argument
@out_option
@splits_option(
    "paper",
    "speaker",
    "text",
    text="paper: one session for test, a random tenth of the others for validation; speaker: "
    "another session for validation; text: as paper, without clips that share their text with the "
    "test.",
)
@click.option(
    "--test-session",
    type=click.IntRange(1, 5),
    default=5,
    show_default=True,
    help="Session for test; a cross-validation uses all five in turn.",
)
@seed_option
@partial_option
@limits
def iemocap(root: Path, splits: Any, test_session: int, seed: int, **options: Any) -> int:
    """IEMOCAP: 5,531 clips of four classes.

    ROOT has the folders Session1 … Session5.
    """
    from rellm_cache.corpus.readers.iemocap import IemocapSplits, read_iemocap

    return prepare_and_show(
        read_iemocap(root, IemocapSplits(splits, test_session, seed)), **options
    )


@click.command()
@root_argument
@out_option
@splits_option(
    "paper",
    "speaker",
    text="paper: 105 of the 350 sentences for test, all speakers in all splits; speaker: two "
    "speakers each for validation and test, all sentences in all splits.",
)
@seed_option
@partial_option
@limits
def esd(root: Path, splits: Any, seed: int, **options: Any) -> int:
    """ESD, its English half: 14,000 clips in four emotions.

    ROOT has the folders 0011 … 0020.
    """
    from rellm_cache.corpus.readers.esd import read_esd

    return prepare_and_show(read_esd(root, splits, seed), **options)


@click.command("msp-podcast")
@root_argument
@out_option
@splits_option(
    "paper",
    "full",
    text="paper: 4,290 clips drawn from Train and 1,245 from Test1 and Test2; full: all of Train, "
    "Development, and Test1 and Test2.",
)
@seed_option
@partial_option
@limits
def msp_podcast(root: Path, splits: Any, seed: int, **options: Any) -> int:
    """MSP-Podcast: four classes.

    ROOT has the folders Labels, Audios and Transcripts.
    """
    from rellm_cache.corpus.readers.msp_podcast import read_msp_podcast

    return prepare_and_show(read_msp_podcast(root, splits, seed), **options)


@click.command()
@root_argument
@out_option
@click.option("--train-speakers", default="1-16", show_default=True, help="As 1-16 or 1,3,5-8.")
@click.option("--validation-speakers", default="17,18", show_default=True)
@click.option("--test-speakers", default="19-20", show_default=True)
@partial_option
@limits
def ravdess(
    root: Path, train_speakers: str, validation_speakers: str, test_speakers: str, **options: Any
) -> int:
    """RAVDESS speech: five emotions, split by speaker.

    ROOT has the folders Actor_01 …
    """
    from rellm_cache.corpus.readers.ravdess import read_ravdess
    from rellm_cache.utils.console import parse_ranges

    splits = {
        "train": frozenset(parse_ranges(train_speakers, "speakers")),
        "validation": frozenset(parse_ranges(validation_speakers, "speakers")),
        "test": frozenset(parse_ranges(test_speakers, "speakers")),
    }
    return prepare_and_show(read_ravdess(root, splits), **options)
