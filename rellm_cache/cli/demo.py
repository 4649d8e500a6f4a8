"""rellm demo: the whole job on clips that come with the package."""

from pathlib import Path

import click

from rellm_cache.cli.options import cache_option


@click.command()
@cache_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder for manifests and runs.",
)
def demo(cache: Path, out: Path) -> None:
    """Run every stage on embedded clips and small real models, in minutes, on two cores."""
    from rellm_cache.stages.demo import demo as run

    run(cache, out)
