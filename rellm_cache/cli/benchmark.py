"""rellm benchmark: train and test a recipe by the protocol of a public benchmark."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import SOME_FAILED, print_json, print_table
from rellm_cache.utils.console import percent

if TYPE_CHECKING:
    from rellm_cache.benchmarks.report import BenchmarkReport


@click.group()
def benchmark() -> None:
    """Train and test a recipe by the protocol of a public benchmark."""


@benchmark.command()
@click.argument("folds", type=options.EXISTING_FOLDER)
@click.option(
    "--recipe",
    default="heads",
    help="Name of a shipped recipe, or path of a TOML file. Its emotions become the corpus's.",
)
@options.overrides
@options.cache
@options.out("Folder of the runs fold_K/baseline/seed-N; an existing benchmark is continued.")
@click.option("--seeds", default="1-3", metavar="LIST", help="Seeds of each fold, as 1-3 or 1,2,7.")
@click.option(
    "--processes", type=click.IntRange(1), default=1, help="Runs at the same time, for CPUs."
)
@options.as_json
def emobox(
    folds: Path,
    recipe: str,
    overrides: tuple[str, ...],
    cache: Path,
    out: Path,
    seeds: str,
    processes: int,
    as_json: bool,
) -> int:
    """Train and test a recipe on every fold of an EmoBox corpus.

    FOLDS is the folder that `rellm prepare emobox` made; the cache needs the frames of every fold.
    The best epoch is chosen on the validation split, and each run is scored on the test clips of
    its fold. If the command is killed, run it again to continue. Failed runs are listed, the other
    runs continue, and the exit code is 3.

    The table shows UA, weighted accuracy and macro F1 by fold, and their mean over folds beside the
    rows of EmoBox's leaderboard. OUT/benchmark.json has all of it, OUT/benchmark.csv one row a run.
    """
    from rellm_cache import api
    from rellm_cache.utils.console import parse_ranges

    report = api.benchmark(
        folds,
        cache,
        out=out,
        recipe=recipe,
        set=overrides,
        seeds=parse_ranges(seeds, "seeds"),
        processes=processes,
    )
    if as_json:
        print_json(report.to_json())
    else:
        show(report)
    return SOME_FAILED if report.failed else 0


def show(report: "BenchmarkReport") -> None:
    """Print scores by fold, means with spreads, the leaderboard and failures."""
    from rellm_cache.benchmarks.report import METRICS, PARTS

    for part in report.parts:
        by_fold = {metric: report.fold_scores(part, metric) for metric in METRICS}
        rows = []
        for fold in by_fold["ua"]:
            found = [by_fold[metric][fold] for metric in METRICS]
            rows.append([fold, str(found[0].count), *(_with_sd(s.mean, s.sd) for s in found)])
        columns = ["fold", "seeds", "UA", "WA", "macro F1"]
        print_table(f"{report.corpus}, {PARTS[part]}: mean (SD over seeds)", columns, rows)
        scores = [report.score(part, metric) for metric in METRICS]
        rows = [
            ["mean over folds", *(percent(s.mean) for s in scores)],
            ["SD over folds", *(_or_dash(s.sd_folds) for s in scores)],
            ["SD over seeds", *(_or_dash(s.sd_seeds) for s in scores)],
            *([f"EmoBox: {name}", percent(ua), "", ""] for name, ua in report.leaderboard.items()),
        ]
        print_table("", ["", "UA", "WA", "macro F1"], rows)
    if report.normalizes_speakers:
        click.echo(
            "Frames are normalized by speaker: the other test clips of a speaker were used, "
            "without their labels. EmoBox's leaderboard hears each clip alone."
        )
    for text in report.lacking:
        click.echo(f"Not the whole benchmark: {text}", err=True)
    for run in report.failed:
        click.echo(f"Failed: {run.fold}, seed {run.seed}: {run.error}")
    click.echo(f"Runs: {report.out}/fold_K/baseline/seed-N")
    click.echo(f"All scores: {report.out}/benchmark.json, by run: {report.out}/benchmark.csv")


def _with_sd(mean: float, sd: float | None) -> str:
    return percent(mean) if sd is None else f"{percent(mean)} ({percent(sd)})"


def _or_dash(value: float | None) -> str:
    return "–" if value is None else percent(value)
