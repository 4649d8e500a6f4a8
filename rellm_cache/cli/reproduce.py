"""rellm reproduce: the paper's Table I from the folder of a corpus."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import SOME_FAILED, print_table
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.reproduction.folds import CorpusName
    from rellm_cache.reproduction.table1 import Reproduction
    from rellm_cache.reproduction.table_statistics import RowResult


@click.group()
def reproduce() -> None:
    """Reproduce the paper's experiments."""


@reproduce.command()
@click.option(
    "--corpus",
    required=True,
    type=click.Choice(["iemocap", "esd", "msp-podcast", "ravdess"]),
    help="Name of the corpus.",
)
@click.option(
    "--data",
    required=True,
    type=options.EXISTING_FOLDER,
    help="Folder of the corpus, as distributed.",
)
@options.out("Folder of the reproduction; an existing one is continued.")
@options.cache
@click.option(
    "--base",
    default="re-llm",
    metavar="NAME|FILE",
    help="Base recipe of all rows: re-llm has the paper's models, small is for CPUs.",
)
@options.overrides
@click.option(
    "--empathy",
    type=options.EXISTING_FOLDER,
    metavar="FOLDER",
    help="Folder of `rellm empathy train`; without it, ER and EX are left out.",
)
@click.option(
    "--blsp",
    type=options.EXISTING_FOLDER,
    metavar="FOLDER",
    help="BLSP-Emo checkpoint, for its own row and as the start of all trained rows; or a run that "
    "stands in for it in its own row.",
)
@click.option(
    "--first",
    default="",
    show_default=False,
    metavar="NAME|FILE",
    help="Recipe without an LLM, as heads, that each row is first trained with and starts from.",
)
@click.option(
    "--splits",
    default="",
    show_default=False,
    help="As in `rellm prepare CORPUS`; the paper's by default.",
)
@click.option("--cross-validate", is_flag=True, help="Test each session of IEMOCAP in turn.")
@click.option("--seed", default=1, help="Seed of splits and of shuffled labels.")
@click.option(
    "--row", "rows", multiple=True, metavar="NAME", help="Only this row, as re-llm. Repeatable."
)
@click.option(
    "--folds",
    type=click.IntRange(min=0),
    default=0,
    show_default=False,
    help="Number of folds, the first ones; more can be added later. All by default.",
)
@click.option(
    "--control", is_flag=True, help="Also train RE-LLM on shuffled labels: its gain must vanish."
)
@click.option(
    "--processes",
    type=options.COUNT,
    default=1,
    help="Models trained at a time; more than 1 only on a CPU.",
)
@options.batch_size(8, "Clips answered at a time.")
@click.option("--allow-partial", is_flag=True, help="Accept a corpus with missing clips.")
@options.as_json
def table1(
    corpus: "CorpusName",
    data: Path,
    splits: str,
    cross_validate: bool,
    seed: int,
    as_json: bool,
    **request: Any,
) -> int:
    """Reproduce Table I of the paper.

    Prepares, extracts, responds, trains, answers, evaluates, compares and prints. Finished steps
    are skipped: if the command is killed, run it again to continue. Failed rows and folds are
    listed, the others continue, and the exit code is 3.

    OUT/table1.json has all results, OUT/table1.html shows them with plots, and OUT/utterances.csv
    has every answer with its scores.
    """
    from rellm_cache.reproduction.folds import Source
    from rellm_cache.reproduction.page import write_page
    from rellm_cache.reproduction.prepare import Request
    from rellm_cache.reproduction.table1 import reproduce as run
    from rellm_cache.reproduction.table1 import to_json
    from rellm_cache.utils.atomic_files import write_text

    source = Source(corpus, data, splits, cross_validate, seed)
    found = run(Request(source=source, **request))
    out: Path = request["out"]
    document = json.dumps(to_json(found), indent=2)
    write_text(out / "table1.json", document + "\n")
    write_page(out / "table1.html", found)
    if as_json:
        click.echo(document)
    else:
        show(found)
        click.echo(f"Table: {out / 'table1.json'}, page: {out / 'table1.html'}")
        click.echo(f"Every answer: {out / 'utterances.csv'}")
    return SOME_FAILED if found.failures else 0


def show(found: "Reproduction") -> None:
    """Print the table, the paper's table, the tests and what is missing."""
    corpus, folds = found.request.source.corpus, len(found.folds)
    clips = counted(found.test_clips, "test clip")
    title = f"Table I on {corpus}: {clips} in {counted(folds, 'fold')}"
    columns = ["model", "ER", "EX", "UA", "in words", "head", "words", "questions", "cut"]
    print_table(title, columns, map(_row, found.rows))
    if paper := [row for row in found.rows if row.paper]:
        metrics = ["ER", "EX", "UA"]
        lines = [[row.row.title, *(_beside(row, metric) for metric in metrics)] for row in paper]
        print_table("The paper's means (ours minus the paper's)", ["model", *metrics], lines)
    if found.comparisons:
        rows = [
            [
                c.second,
                c.metric,
                f"{c.difference.value:+.3f}",
                f"{c.difference.low:+.3f} … {c.difference.high:+.3f}",
                f"{c.test.effect:+.2f}",
                f"{c.p_holm:.2g}",
                c.direction,
            ]
            for c in found.comparisons
        ]
        columns = ["against", "metric", "difference", "95 % interval", "effect", "p, Holm", "paper"]
        print_table("RE-LLM against the others, paired by utterance", columns, rows)
        click.echo("paper: whether the difference has the same sign as in the paper.")
    for note in found.notes:
        click.echo(note)
    for name, reason in found.absent.items():
        click.echo(f"Not made: {name}: {reason}")
    for failure in found.failures:
        click.echo(f"Failed: {failure.title}: {failure.reason}")


def _row(row: "RowResult") -> list[object]:
    def mean(name: str) -> str | None:
        return f"{row.recognition[name].mean:.3f}" if name in row.recognition else None

    levels = [row.empathy[m].summary if m in row.empathy else None for m in ("ER", "EX")]
    title = f"{row.row.title} = {row.same_as}" if row.same_as else row.row.title
    cut = None if row.cut is None else f"{100 * row.cut:.0f} %"
    lengths = [f"{row.words.mean:.1f}", f"{row.questions.mean:.2f}"]
    ua = row.recognition.get("UA")
    return [title, *levels, ua, mean("UA in words"), mean("UA head"), *lengths, cut]


def _beside(row: "RowResult", metric: str) -> str | None:
    """The paper's mean and our difference to it."""
    paper = row.paper.get(metric)
    if paper is None:
        return None
    mean = row.mean(metric)
    return f"{paper:.3f}" if mean is None else f"{paper:.3f} ({mean - paper:+.3f})"
