"""rellm prepare emobox: the folds of a corpus by EmoBox's metadata."""

from pathlib import Path
from typing import Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.prepare.report import EXIT_CODES, show_folds
from rellm_cache.utils.console import parse_ranges


@click.command(epilog=EXIT_CODES)
@click.argument("metadata", type=options.EXISTING_FOLDER)
@click.option(
    "--audio",
    required=True,
    type=options.EXISTING_FOLDER,
    help="Folder of the audio files: EmoBox's downloads, or the corpus's own folder.",
)
@options.out("Folder for the manifests, OUT/fold_1 …")
@click.option("--fold", "folds", default="", metavar="LIST", help="Only these folds, as 1 or 1-3.")
@click.option(
    "--labels",
    default="",
    metavar="keep|FILE",
    help="keep takes the corpus's own labels, a JSON file maps them. Otherwise label_map.json "
    "beside the folds maps them, if it is there. Names are written in lower case.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    help="Seed of the random fifth of train that is the validation set where EmoBox has none.",
)
@click.option(
    "--skip-missing", is_flag=True, help="Leave out clips without an audio file, and count them."
)
@options.clip_limits
@options.overwrite
def emobox(metadata: Path, out: Path, folds: str, **given: Any) -> int:
    """Folds of a corpus by EmoBox's metadata.

    METADATA is the folder of one of EmoBox's 32 corpora, as EmoBox/data/ravdess. All its folds are
    written, each into a manifest folder of its own. `rellm benchmark emobox` trains on them.
    """
    from rellm_cache import api

    chosen = parse_ranges(folds, "folds") if folds else ()
    return show_folds(api.prepare_folds(metadata, out, folds=chosen, **given))
