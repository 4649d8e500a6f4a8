"""rellm sweep: train variants of a recipe with several seeds, and compare them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import SOME_FAILED, print_json, print_table
from rellm_cache.utils.console import percent

if TYPE_CHECKING:
    from rellm_cache.sweeps.report import SweepReport


@click.command()
@options.recipe
@options.manifest_folder
@options.cache
@options.out("Folder of the sweep, with runs VARIANT/seed-N; an existing sweep is continued.")
@click.option(
    "--seeds", default="1-3", metavar="LIST", help="Seeds of each variant, as 1-5 or 1,2,7."
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    metavar="'NAME: KEY=VALUE; …'",
    help="A variant of the recipe, as 'no-dimensions: losses.vad=0'. Repeatable.",
)
@click.option(
    "--variants",
    "file",
    type=options.EXISTING_FILE,
    metavar="FILE",
    help='TOML file with variants, one a line: no-dimensions = ["losses.vad=0"].',
)
@click.option(
    "--evaluate",
    "test",
    type=options.EXISTING,
    metavar="MANIFEST",
    help="Also score every finished run on this manifest file or folder.",
)
@click.option(
    "--in-words",
    is_flag=True,
    help="With --evaluate, also let the LLM answer emotions in words; the slowest part.",
)
@options.as_json
def sweep(
    recipe: str,
    overrides: tuple[str, ...],
    manifest: Path,
    cache: Path,
    out: Path,
    seeds: str,
    variants: tuple[str, ...],
    file: Path | None,
    test: Path | None,
    in_words: bool,
    as_json: bool,
) -> int:
    """Train variants of a recipe with several seeds.

    The baseline is the recipe with --set. A variant changes more fields, in the syntax of --set.
    {seed} in a value stands for the seed of the run, as in
    training.init_from=sweeps/heads/baseline/seed-{seed}.

    All runs share one process: the LLM is loaded once, and the cache is opened once. A run folder
    OUT/VARIANT/seed-N holds the same bits as one by `rellm train`. If the command is killed,
    run it again to continue. Finished runs are not repeated, so seeds and variants can be added
    later. Failed runs are listed, the other runs continue, and the exit code is 3.

    The tables show mean and standard deviation over seeds, and the difference to the baseline,
    paired by seed, with its 95 % interval (Student's t). They are also in OUT/sweep.json and
    OUT/sweep.csv, which are written after every run.
    """
    from rellm_cache import api
    from rellm_cache.sweeps.plan import parse_variant, read_variants
    from rellm_cache.utils.console import parse_ranges

    report = api.sweep(
        recipe,
        manifest,
        cache,
        out,
        set=overrides,
        variants=(*map(parse_variant, variants), *(read_variants(file) if file else ())),
        seeds=parse_ranges(seeds, "seeds"),
        test=test,
        in_words=in_words,
    )
    if as_json:
        print_json(report.to_json())
    else:
        show(report)
    return SOME_FAILED if report.failed else 0


def show(report: "SweepReport") -> None:
    """Print means, differences, failures and paths."""
    part = "validation" if report.test is None else "test"
    names = [m for m in report.metrics if m.startswith(f"{part}.")]
    losses = [m for m in names if m.endswith("_loss")]
    for title, metrics in (("scores", [m for m in names if m not in losses]), ("losses", losses)):
        if metrics:
            show_means(report, f"{part} {title}: mean (SD over seeds)", metrics)
    show_differences(report, names)
    for run in report.failed:
        click.echo(f"Failed: {run.variant}, seed {run.seed}: {run.error}")
    click.echo(f"Runs: {report.out}/VARIANT/seed-N")
    click.echo(f"All scores: {report.out}/sweep.json, by run: {report.out}/sweep.csv")


def show_means(report: "SweepReport", title: str, metrics: list[str]) -> None:
    """Print a table with a row for each variant and a column for each score."""
    cells: dict[str, dict[str, str]] = {row.name: {} for row in report.plan.rows}
    for row in report.comparisons():
        mean, sd = number(row.metric, row.score.mean), row.score.sd
        spread = "" if sd is None else f" ({number(row.metric, sd)})"
        cells[row.variant][row.metric] = f"{mean}{spread}"
    rows = []
    for variant, found in cells.items():
        runs = sum(run.variant == variant and not run.error for run in report.runs)
        rows.append([variant, str(runs), *(found.get(metric, "–") for metric in metrics)])
    print_table(title, ["variant", "n", *map(label, metrics)], rows)


def show_differences(report: "SweepReport", metrics: list[str]) -> None:
    """Print the difference to the baseline for each variant and score, with its interval."""
    rows = []
    for row in report.comparisons():
        if row.metric not in metrics or (found := row.difference) is None:
            continue
        low, mean, high = (
            None if value is None else number(row.metric, value, "+")
            for value in (found.low, found.mean, found.high)
        )
        sd = None if found.sd is None else number(row.metric, found.sd)
        interval = None if low is None else f"{low} … {high}"
        rows.append([row.variant, label(row.metric), found.count, mean, sd, interval])
    if rows:
        title = "Difference to the baseline, paired by seed"
        print_table(title, ["variant", "score", "n", "mean", "SD", "95 % interval"], rows)
        click.echo(
            "Intervals are over seeds only: the clips are the same in every run. Differences of "
            "percentages are in percentage points."
        )


def number(metric: str, value: float, sign: str = "") -> str:
    """Format a score, or a difference of scores: shares as percent, others with four decimals."""
    is_share = metric.endswith(("ua", "accuracy", "unparsable"))
    return percent(value, sign) if is_share else f"{value:{sign}.4f}"


def label(metric: str) -> str:
    """Column title of a score: "CCC arousal" for `test.ccc_arousal`."""
    words = {"ua": "UA", "ccc": "CCC", "llm": "LLM", "words": "in words,"}
    return " ".join(words.get(w, w) for w in metric.partition(".")[2].split("_"))
