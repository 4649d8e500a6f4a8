"""rellm empathy: train empathy scorers and score replies."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import print_json, print_table
from rellm_cache.utils.console import counted


@click.group(cls=options.OrderedGroup)
def empathy() -> None:
    """Score the empathy of replies.

    Scores are levels of emotional reactions, interpretations and explorations. A scorer is
    EPITOME's bi-encoder on any text encoder, trained on EPITOME's tables.
    """


@empathy.command()
@click.argument("data", type=options.EXISTING_FOLDER)
@options.out("Folder for the scorer.")
@click.option(
    "--encoder",
    metavar="ID|FOLDER",
    help="Text encoder: hub id or local folder. [default: FacebookAI/roberta-base]",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, for example epochs=6 or together=true. Repeatable.",
)
@options.as_json
def train(
    data: Path, out: Path, encoder: str | None, changes: tuple[str, ...], as_json: bool
) -> None:
    """Train scorers on the CSV files in folder DATA.

    A fifth of the posts is held out. The settings are EPITOME's for RoBERTa, or those shipped for
    another encoder. OUT/empathy.json has the settings and the scores on the held-out fifth.
    """
    from rellm_cache.empathy.settings import make_settings
    from rellm_cache.empathy.training import train_empathy

    card = train_empathy(data, out, make_settings(encoder, changes))
    if as_json:
        print_json({"counts": card.counts, "scores": card.scores})
        return
    tokens = card.settings.tokens, card.settings.long_tokens
    for part, limit in zip(("test", "test_long"), tokens, strict=True):
        held_out = counted(card.counts["test"], "exchange")
        title = f"{held_out} held out, texts cut at {limit} tokens"
        rows = [_level_row(name, scores) for name, scores in card.scores[part].items()]
        print_table(title, ["mechanism", "macro F1", "accuracy", "F1 by level", "ECE"], rows)
    cut, count = card.counts["test_replies_cut"], card.counts["test"]
    click.echo(f"{cut} of {count} replies are longer than {card.settings.tokens} tokens")
    click.echo(f"Scorer: {out}")


def _level_row(name: str, scores: dict[str, Any]) -> list[str]:
    by_level = ", ".join(f"{f1:.2f}" for f1 in scores["f1"].values())
    numbers = (scores["macro_f1"], scores["accuracy"])
    return [name, *(f"{n:.3f}" for n in numbers), by_level, f"{scores['calibration_error']:.3f}"]


@empathy.command()
@click.argument("scorer", type=options.EXISTING_FOLDER)
@click.argument("source", type=options.EXISTING_FILE)
@options.out("CSV file to write.", options.FILE)
@options.overwrite
@options.as_json
def score(scorer: Path, source: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Add empathy levels to the rows of a CSV file.

    SOURCE needs the columns seeker_post and response_post. The new columns are ER_label, IP_label,
    EX_label and their probabilities, for texts cut at EPITOME's 64 tokens, and the same with a
    longer limit as ER_label_long and so on.
    """
    from rellm_cache.empathy.scoring import score_csv

    report = score_csv(scorer, source, out, overwrite)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    rows = [
        [name, str(summary), str(report.long_levels[name])]
        for name, summary in report.levels.items()
    ]
    limits = [f"cut at {report.tokens} tokens", f"at {report.long_tokens}"]
    replies = counted(report.rows, "reply", "replies")
    print_table(f"{replies}, mean level (SD)", ["mechanism", *limits], rows)
    for what, cut in (("replies", report.replies_cut), ("posts", report.posts_cut)):
        click.echo(f"{cut} of {report.rows} {what} are longer than {report.tokens} tokens")
    click.echo(f"Scores: {out}")
