"""rellm probe: linear probes of the layers in the cache."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import print_json, print_table
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.probing.report import ProbeReport

TARGETS = "emotion,arousal,dominance,valence,speaker,text"


@click.command()
@options.manifest_argument
@options.recipe
@options.cache
@click.option("--targets", default=TARGETS, help="What to predict, separated by commas.")
@click.option(
    "--out", type=options.FOLDER, help="Folder for probe.json and probe.html, a page with charts."
)
@options.as_json
def probe(
    manifest: Path,
    recipe: str,
    overrides: tuple[str, ...],
    cache: Path,
    targets: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Tell which layers carry emotion, speaker and text.

    MANIFEST is a manifest file or folder; all its splits are used. For each stream of the recipe,
    every layer of its encoder that the cache holds is probed, whatever the recipe's layer, and all
    of them together. `rellm extract --set encoders.NAME.layers=all` makes all layers in one pass.

    A probe is a linear model on the mean and standard deviation of each clip's frames: logistic
    regression for classes (UA), ridge regression for dimensions (CCC). Its score is that of five
    folds. Folds of emotion and dimensions separate speakers. Those of speaker and text separate
    clips only, and need five clips of each speaker or text. Intervals are 95 % bootstrap intervals
    over clips. A target without labels is skipped.
    """
    from rellm_cache import api

    names = [name.strip() for name in targets.split(",")]
    report = api.probe(recipe, manifest, cache, set=overrides, targets=names, out=out)
    if as_json:
        print_json(report.to_json())
        return
    show(report)
    if out is not None:
        click.echo(f"{out}: probe.html, probe.json")


def show(report: "ProbeReport") -> None:
    """Print a row for each probe and a column for each target."""
    scores = {(score.name, score.target): score for score in report.scores}
    rows: list[list[object]] = []
    for name in report.names:
        cells = []
        for target in report.targets:
            score = scores[name, target.name]
            mark = " *" if score is report.best(target.name) else ""
            cells.append(f"{score.value:.3f} ({score.low:.2f}–{score.high:.2f}){mark}")
        rows.append([name, *cells])
    rows.append(["chance", *(f"{target.chance:.3f}" for target in report.targets)])
    columns = [f"{target.name}, {target.measure}" for target in report.targets]
    if report.targets:
        print_table(f"{counted(report.clips, 'clip')}; * best layer", ["layer", *columns], rows)
        folds = (f"{t.name} by {t.folds_by}" for t in report.targets)
        click.echo(f"Folds: {', '.join(folds)}")
    for name, reason in report.skipped.items():
        click.echo(f"Not probed: {name}: {reason}")
    for note in report.notes:
        click.echo(f"Note: {note}")
