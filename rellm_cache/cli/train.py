"""rellm train: train adapter and heads on cached frames."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import decimals, print_layer_weights, print_table
from rellm_cache.utils.console import counted, is_main_process, percent


@click.command()
@options.recipe
@options.manifest_folder
@options.cache
@options.out("Run folder. A run of the same recipe there is continued.")
def train(recipe: str, overrides: tuple[str, ...], manifest: Path, cache: Path, out: Path) -> None:
    """Train the adapter and heads of a recipe on cached frames.

    If the command is killed, run it again to continue from the newest complete checkpoint.

    Several processes: torchrun --no-python --nproc-per-node 2 rellm train …
    """
    from rellm_cache import api

    report = api.train(recipe, manifest, cache, out=out, set=overrides)
    if not is_main_process():
        return
    for note in report.notes:
        click.echo(f"Note: {note}")
    if not report.steps:
        click.echo(f"Run: {report.out}")
        return
    if report.stopped:
        click.echo(f"Stopped at step {report.steps} of {report.planned}: {report.stopped}")
    if report.resumed_at == report.steps:
        click.echo(f"Nothing to do: the run is finished, {counted(report.steps, 'step')}")
    names = sorted(report.validation.keys() | report.untrained.keys())
    both = (report.untrained, report.validation)
    rows = [[name, *(_shown(name, scores.get(name)) for scores in both)] for name in names]
    title = f"{report.trainable / 1e6:.1f} M trained parameters, {report.seconds:.0f} s"
    print_table(title, ["validation", "untrained", "trained"], rows)
    print_layer_weights(report.layer_weights)
    click.echo(f"Run: {report.out}")


def _shown(name: str, value: float | None) -> str | None:
    return percent(value) if name == "ua" and value is not None else decimals(value, 4)
