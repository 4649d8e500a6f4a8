"""rellm prepare iemocap, esd, msp-podcast, ravdess: corpora whose folders and totals are known."""

from pathlib import Path
from typing import Any

import click

from rellm_cache.cli.prepare.arguments import (
    limits,
    out_option,
    partial_option,
    root_argument,
    seed_option,
    splits_option,
)
from rellm_cache.cli.prepare.show import show


@click.command()
@root_argument
@out_option
@splits_option(
    "paper",
    "speaker",
    "text",
    text="paper: a session tested, a random tenth of the others for validation; speaker: another "
    "session for validation; text: as paper, without the clips whose text the test has.",
)
@click.option(
    "--test-session",
    type=click.IntRange(1, 5),
    default=5,
    show_default=True,
    help="Session tested; all five in turn are a cross-validation.",
)
@seed_option
@partial_option
@limits
def iemocap(
    root: Path,
    out: Path,
    splits: Any,
    test_session: int,
    seed: int,
    allow_partial: bool,
    min_seconds: float,
    max_seconds: float,
) -> int:
    """IEMOCAP (folders Session1 … Session5): 5,531 clips of four classes."""
    from rellm_cache.corpus.prepare import prepare
    from rellm_cache.corpus.readers.iemocap import IemocapSplits, read_iemocap

    corpus = read_iemocap(root, IemocapSplits(splits, test_session, seed))
    return show(prepare(corpus, out, min_seconds, max_seconds, allow_partial))


@click.command()
@root_argument
@out_option
@splits_option(
    "paper",
    "speaker",
    text="paper: 105 of the 350 sentences tested, the same speakers in all splits; speaker: two "
    "speakers each for validation and test, the same sentences in all.",
)
@seed_option
@partial_option
@limits
def esd(
    root: Path,
    out: Path,
    splits: Any,
    seed: int,
    allow_partial: bool,
    min_seconds: float,
    max_seconds: float,
) -> int:
    """ESD's English half (folders 0011 … 0020): 14,000 clips in four emotions."""
    from rellm_cache.corpus.prepare import prepare
    from rellm_cache.corpus.readers.esd import read_esd

    return show(prepare(read_esd(root, splits, seed), out, min_seconds, max_seconds, allow_partial))


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
def msp_podcast(
    root: Path,
    out: Path,
    splits: Any,
    seed: int,
    allow_partial: bool,
    min_seconds: float,
    max_seconds: float,
) -> int:
    """MSP-Podcast (folders Labels, Audios, Transcripts): four classes."""
    from rellm_cache.corpus.prepare import prepare
    from rellm_cache.corpus.readers.msp_podcast import read_msp_podcast

    corpus = read_msp_podcast(root, splits, seed)
    return show(prepare(corpus, out, min_seconds, max_seconds, allow_partial))


@click.command()
@root_argument
@out_option
@click.option("--train-speakers", default="1-16", show_default=True, help="As 1-16 or 1,3,5-8.")
@click.option("--validation-speakers", default="17,18", show_default=True)
@click.option("--test-speakers", default="19-20", show_default=True)
@partial_option
@limits
def ravdess(
    root: Path,
    out: Path,
    train_speakers: str,
    validation_speakers: str,
    test_speakers: str,
    allow_partial: bool,
    min_seconds: float,
    max_seconds: float,
) -> int:
    """RAVDESS speech (folders Actor_01 …), split by speaker; five emotions."""
    from rellm_cache.corpus.prepare import prepare
    from rellm_cache.corpus.readers.ravdess import read_ravdess
    from rellm_cache.utils.console import parse_ranges

    splits = {
        "train": frozenset(parse_ranges(train_speakers, "speakers")),
        "validation": frozenset(parse_ranges(validation_speakers, "speakers")),
        "test": frozenset(parse_ranges(test_speakers, "speakers")),
    }
    return show(prepare(read_ravdess(root, splits), out, min_seconds, max_seconds, allow_partial))
