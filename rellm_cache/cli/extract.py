"""rellm extract: encoders run once, frames go into the cache."""

from pathlib import Path

import click

from rellm_cache.cli.options import CLIPS_FAILED, cache_option, recipe_option, set_option


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path, exists=True))
@recipe_option
@set_option
@cache_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Clips encoded at a time.",
)
def extract(
    manifest: Path, recipe: str, overrides: tuple[str, ...], cache: Path, batch_size: int
) -> int:
    """Encode every clip of a manifest file or folder that the cache does not hold yet.

    Killed at any moment, the same command goes on. Clips whose audio changed are encoded again.
    Exit code 3: done, but some clips failed; they are listed in a file beside the store.
    """
    from rellm_cache.config import load_recipe
    from rellm_cache.stages.extract import extract as run
    from rellm_cache.store.layout import failures_path

    reports = run(manifest, load_recipe(recipe, overrides), cache, batch_size)
    for report in reports:
        if report.encoded:
            rate = report.encoded / max(report.seconds, 1e-9)
            click.echo(
                f"{report.path}: {report.encoded} clips encoded ({report.hours:.2f} h, "
                f"{rate:.1f} clips/s), {report.present} were there already"
            )
        elif report.failed:
            click.echo(f"{report.path}: no clip encoded, {report.present} were there already")
        else:
            click.echo(f"{report.path}: nothing to do, all {report.present} clips are there")
        if report.failed:
            click.echo(f"  {report.failed} clips failed, see {failures_path(report.path)}")
    return CLIPS_FAILED if any(report.failed for report in reports) else 0
