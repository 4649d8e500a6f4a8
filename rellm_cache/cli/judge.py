"""rellm judge: an LLM scores what runs answer to questions about speech."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rellm_cache.cli.options import (
    batch_size_option,
    cache_option,
    json_option,
    manifest_argument,
    percent,
    print_table,
)
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.evaluation.judge import JudgeScores


@click.command()
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUN...",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@manifest_argument
@cache_option
@click.option(
    "--judge",
    "model",
    metavar="MODEL",
    help="Chat LLM that judges, a hub id or a folder, spoken to by its own template; by default "
    "that of the first run.",
)
@click.option(
    "--quantization",
    type=click.Choice(["nf4", "int8", "none"]),
    help="Of the model given by --judge; nf4 by default.",
)
@batch_size_option(16, "Questions answered at a time.")
@json_option
def judge(
    runs: tuple[Path, ...],
    manifest: Path,
    cache: Path,
    model: str | None,
    quantization: Literal["nf4", "int8", "none"] | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Score how trained runs answer the questions beside a manifest, a row of one table each.

    Each RUN hears speech and question; an LLM scores its answers against those of `rellm qa`.
    Writes RUN/judged.jsonl and RUN/judged.json. Killed at any moment, the same command goes on.
    """
    from rellm_cache.config.schema import LLMConfig
    from rellm_cache.evaluation.judge import judge as score

    if quantization and not model:
        raise click.UsageError(
            "--quantization is of the model given by --judge; without one the first run's LLM "
            "judges, as its recipe has it"
        )
    judging = None
    if model:
        judging = LLMConfig(model=model, quantization=quantization or "nf4", template="model")
    scores = score(runs, manifest, cache, judging, batch_size)
    if as_json:
        click.echo(json.dumps([one.to_json() for one in scores]))
        return
    print_judged(scores)
    for run in runs:
        click.echo(f"Answers: {run / 'judged.jsonl'}")


def print_judged(scores: list["JudgeScores"]) -> None:
    """A row for each run."""
    types = sorted({name for one in scores for name in one.types})
    rows = []
    for one in scores:
        means = [f"{one.types[t].mean:.2f}" if t in one.types else "–" for t in types]
        right = "–" if one.accuracy is None else percent(one.accuracy)
        rho = one.correlation
        shown = "–"
        if rho is not None and math.isfinite(rho.value):
            shown = f"{rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
        rows.append([one.mode, one.run, f"{one.overall.mean:.2f}", *means, right, shown])
    first = scores[0]
    answers = counted(first.overall.count, "answer")
    title = f"{answers}, mean score 0 to {first.top} by {first.judge}"
    columns = ["learnt", "run", "all", *types, "label right", "Spearman of score and label"]
    print_table(title, columns, rows)
