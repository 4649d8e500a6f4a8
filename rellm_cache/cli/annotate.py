"""rellm annotate: missing dimensions from the emotion encoder's head."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.prepare.report import show_survey
from rellm_cache.utils.console import counted


@click.command()
@options.manifest_argument
@options.recipe
@options.cache
def annotate(manifest: Path, recipe: str, overrides: tuple[str, ...], cache: Path) -> None:
    """Fill missing dimensions from the emotion encoder's head.

    MANIFEST is a manifest file or folder. `rellm extract` stores arousal, dominance and valence of
    each clip in the cache. They are marked as pseudo; dimensions by human annotators stay as they
    are.
    """
    from rellm_cache.annotation.pseudo_dimensions import FUNCTION_OF_INPUT
    from rellm_cache.annotation.pseudo_dimensions import annotate as run
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.store.remote.mirror_paths import display_path

    report = run(manifest, load_recipe(recipe, overrides), cache)
    click.echo(f"{manifest}: {counted(report.filled, 'clip')} filled, {report.renewed} renewed")
    kept = counted(report.kept, "clip keeps its", "clips keep their")
    click.echo(f"From {display_path(report.store)}; {kept} own dimensions")
    if report.clipped:
        clipped = counted(report.clipped, "clip")
        click.echo(f"{clipped} had a value outside 0..1, which was set to the bound")
    show_survey(report.survey)
    if report.filled or report.renewed:
        click.echo(f"Note: {FUNCTION_OF_INPUT}")
