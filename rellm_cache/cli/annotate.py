"""rellm annotate: dimensions that nobody labelled, from the emotion encoder's own head."""

from pathlib import Path

import click

from rellm_cache.cli.options import cache_option, manifest_argument, recipe_option, set_option
from rellm_cache.cli.prepare.show import show_survey


@click.command()
@manifest_argument
@recipe_option
@set_option
@cache_option
def annotate(manifest: Path, recipe: str, overrides: tuple[str, ...], cache: Path) -> None:
    """Fill missing dimensions of a manifest file or folder with what the emotion encoder said.

    Its head's arousal, dominance and valence lie in the cache after `rellm extract`. They are
    marked as pseudo; dimensions that people gave stay as they are.
    """
    from rellm_cache.config import load_recipe
    from rellm_cache.stages.annotate import FUNCTION_OF_INPUT
    from rellm_cache.stages.annotate import annotate as run
    from rellm_cache.store.origin import place

    report = run(manifest, load_recipe(recipe, overrides), cache)
    click.echo(f"{manifest}: {report.filled} clips filled, {report.renewed} renewed")
    click.echo(f"From {place(report.store)}; {report.kept} clips keep the dimensions they had")
    if report.clipped:
        click.echo(f"{report.clipped} clips had a value beyond 0..1, which was set to the bound")
    show_survey(report.survey)
    if report.filled or report.renewed:
        click.echo(f"Note: {FUNCTION_OF_INPUT}")
