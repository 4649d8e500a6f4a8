"""rellm judge: an LLM scores the answers of runs to questions about speech."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import print_json, print_table
from rellm_cache.utils.console import counted, percent

if TYPE_CHECKING:
    from rellm_cache.evaluation.judge import JudgeScores


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=options.EXISTING_FOLDER)
@options.manifest_argument
@options.run_cache
@click.option(
    "--judge",
    "model",
    metavar="MODEL",
    help="Chat LLM that judges, with its own chat template: a hub id or a folder; by default the "
    "LLM of the first run.",
)
@click.option(
    "--quantization",
    type=click.Choice(["nf4", "int8", "none"]),
    help="Quantization of the model given by --judge; nf4 by default.",
)
@options.endpoint("judge")
@options.batch_size(16, "Questions answered at a time.")
@options.workers("clip", "the questions are answered and judged")
@options.as_json
def judge(
    runs: tuple[Path, ...],
    manifest: Path,
    cache: Path | None,
    model: str | None,
    quantization: Literal["nf4", "int8", "none"] | None,
    endpoint: str | None,
    endpoint_model: str | None,
    batch_size: int,
    workers: int | None,
    shard: str | None,
    ray: str,
    as_json: bool,
) -> None:
    """Score answers of trained runs to the questions of `rellm qa`.

    Each RUN gets speech and question; an LLM compares its answers with those beside the manifest.
    With --endpoint a server is this LLM; the runs answer here. Writes RUN/judged.jsonl and
    RUN/judged.json, and prints a table with a row for each run. If the command is killed, run it
    again to continue. Of several shards, the last one writes the files.
    """
    from rellm_cache.annotation.endpoint import Endpoint, connect_if
    from rellm_cache.config.schema import LLMConfig
    from rellm_cache.evaluation.judge import judge as score
    from rellm_cache.workers.options import WorkerOptions

    if quantization and not model:
        raise click.UsageError(
            "--quantization applies to the model given by --judge; without --judge, the LLM of the "
            "first run judges, quantized as in its recipe"
        )
    if endpoint and model:
        raise click.UsageError("--endpoint lets a server judge; leave out --judge")
    judging: Endpoint | LLMConfig | None = connect_if(endpoint, endpoint_model, likelihoods=True)
    if model:
        judging = LLMConfig(model=model, quantization=quantization or "nf4", template="model")
    divided = WorkerOptions.parse(workers, ray, shard)
    scores = score(runs, manifest, cache, judging, batch_size, divided)
    if as_json:
        print_json([one.to_json() for one in scores])
        return
    if not scores:
        return  # of a shard, whose messages have been printed
    print_judged(scores)
    for one in scores:
        click.echo(f"Answers: {Path(one.run) / 'judged.jsonl'}")


def print_judged(scores: list["JudgeScores"]) -> None:
    """Print a table with a row for each run."""
    types = sorted({name for one in scores for name in one.types})
    rows = []
    for one in scores:
        means = [f"{one.types[t].mean:.2f}" if t in one.types else None for t in types]
        right = None if one.accuracy is None else percent(one.accuracy)
        rho, shown = one.correlation, None
        if rho is not None and math.isfinite(rho.value):
            shown = f"{rho.value:.2f} [{rho.low:.2f}, {rho.high:.2f}]"
        rows.append([one.mode, one.run, f"{one.overall.mean:.2f}", *means, right, shown])
    first = scores[0]
    answers = counted(first.overall.count, "answer")
    title = f"{answers}, mean score 0 to {first.top} by {first.judge}"
    columns = ["trained on", "run", "all", *types, "label right", "Spearman of score and label"]
    print_table(title, columns, rows)
    for one in scores:
        if one.level_share is not None:
            click.echo(
                f"{one.run}: the levels have {percent(one.level_share)} of the likelihood of the "
                "server's first tokens"
            )
