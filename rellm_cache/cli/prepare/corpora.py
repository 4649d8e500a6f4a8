"""rellm prepare iemocap, esd, msp-podcast, ravdess: corpora with known folders and totals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.options import Command
from rellm_cache.cli.prepare.report import prepare_and_show

seed_option = click.option("--seed", default=1, help="Seed of random draws; the report records it.")


def splits_option(*names: str, text: str) -> Callable[[Command], Command]:
    """Add `--splits`: one of `names`, the first by default."""
    return click.option("--splits", type=click.Choice(names), default=names[0], help=text)


def corpus_options(command: Command) -> Command:
    """Add the options that every corpus has after its own."""
    partial = click.option(
        "--allow-partial",
        is_flag=True,
        help="Accept a corpus with fewer or more clips than expected.",
    )
    return partial(options.clip_seconds(options.overwrite(command)))


def folders(command: Command) -> Command:
    """Add the folder of the corpus and the folder for its manifest."""
    root = click.argument("root", type=options.EXISTING_FOLDER)
    return root(options.out("Folder for the manifest.")(command))


@click.command()
@folders
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
    help="Session for test; a cross-validation uses all five in turn.",
)
@seed_option
@corpus_options
def iemocap(root: Path, splits: Any, test_session: int, seed: int, **limits: Any) -> int:
    """IEMOCAP: 5,531 clips of four classes.

    ROOT has the folders Session1 … Session5.
    """
    from rellm_cache.corpus.readers.iemocap import IemocapSplits, read_iemocap

    corpus = read_iemocap(root, IemocapSplits(splits, test_session, seed))
    return prepare_and_show(corpus, **limits)


@click.command()
@folders
@splits_option(
    "paper",
    "speaker",
    text="paper: 105 of the 350 sentences for test, all speakers in all splits; speaker: two "
    "speakers each for validation and test, all sentences in all splits.",
)
@seed_option
@corpus_options
def esd(root: Path, splits: Any, seed: int, **limits: Any) -> int:
    """ESD, its English half: 14,000 clips in four emotions.

    ROOT has the folders 0011 … 0020.
    """
    from rellm_cache.corpus.readers.esd import read_esd

    return prepare_and_show(read_esd(root, splits, seed), **limits)


@click.command("msp-podcast")
@folders
@splits_option(
    "paper",
    "full",
    text="paper: 4,290 clips drawn from Train and 1,245 from Test1 and Test2; full: all of Train, "
    "Development, and Test1 and Test2.",
)
@seed_option
@corpus_options
def msp_podcast(root: Path, splits: Any, seed: int, **limits: Any) -> int:
    """MSP-Podcast: four classes.

    ROOT has the folders Labels, Audios and Transcripts.
    """
    from rellm_cache.corpus.readers.msp_podcast import read_msp_podcast

    return prepare_and_show(read_msp_podcast(root, splits, seed), **limits)


@click.command()
@folders
@click.option("--train-speakers", default="1-16", help="As 1-16 or 1,3,5-8.")
@click.option("--validation-speakers", default="17,18", help="As --train-speakers.")
@click.option("--test-speakers", default="19-20", help="As --train-speakers.")
@corpus_options
def ravdess(
    root: Path, train_speakers: str, validation_speakers: str, test_speakers: str, **limits: Any
) -> int:
    """RAVDESS speech: five emotions, split by speaker.

    ROOT has the folders Actor_01 …
    """
    from rellm_cache.corpus.readers.ravdess import read_ravdess
    from rellm_cache.utils.console import parse_ranges

    speakers = {"train": train_speakers, "validation": validation_speakers, "test": test_speakers}
    splits = {split: frozenset(parse_ranges(text, "speakers")) for split, text in speakers.items()}
    return prepare_and_show(read_ravdess(root, splits), **limits)
