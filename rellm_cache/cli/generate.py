"""rellm generate: answer speech with a trained run."""

from pathlib import Path

import click

from rellm_cache.cli.options import (
    batch_size_option,
    run_argument,
    run_cache_option,
    set_option,
)
from rellm_cache.utils.console import counted


@click.command()
@run_argument
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSON Lines file for the answers.",
)
@run_cache_option
@click.option("--from-audio", is_flag=True, help="Encode the audio instead of reading the cache.")
@batch_size_option(8, "Clips answered at a time.")
@set_option
def generate(
    run: Path,
    source: Path,
    out: Path,
    cache: Path | None,
    from_audio: bool,
    batch_size: int,
    overrides: tuple[str, ...],
) -> None:
    """Answer speech with a trained run.

    SOURCE is a manifest file or folder, with frames in the cache, or one sound file, encoded live.
    Only prompts.* can be set: `--set prompts.answer_sentences=2` keeps answers short.
    """
    from rellm_cache.inference.generate import generate as answer

    generations = answer(run, source, out, cache, from_audio, batch_size, overrides)
    for generation in generations[:3]:
        heard = f" ({generation.emotion})" if generation.emotion else ""
        click.echo(f"{generation.id}{heard}: {generation.response}")
    click.echo(f"{counted(len(generations), 'answer')}: {out}")
