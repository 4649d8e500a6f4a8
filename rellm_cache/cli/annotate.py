"""rellm annotate: dimensions that nobody labelled, from the emotion encoder's own head."""

from pathlib import Path

import click

from rellm_cache.cli.options import cache_option, manifest_argument, recipe_option, set_option
from rellm_cache.cli.prepare.report import show_survey
from rellm_cache.utils.console import counted


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
    from rellm_cache.annotation.pseudo_vad import FUNCTION_OF_INPUT
    from rellm_cache.annotation.pseudo_vad import annotate as run
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.store.remote.mirror_paths import display_path

    report = run(manifest, load_recipe(recipe, overrides), cache)
    click.echo(f"{manifest}: {counted(report.filled, 'clip')} filled, {report.renewed} renewed")
    kept = counted(report.kept, "clip keeps its", "clips keep their")
    click.echo(f"From {display_path(report.store)}; {kept} own dimensions")
    if report.clipped:
        clipped = counted(report.clipped, "clip")
        click.echo(f"{clipped} had a value beyond 0..1, which was set to the bound")
    show_survey(report.survey)
    if report.filled or report.renewed:
        click.echo(f"Note: {FUNCTION_OF_INPUT}")
