"""rellm evaluate: score a trained run, and write its report."""

from pathlib import Path
from typing import Any, Literal

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import decimals, print_json, print_layer_weights, print_table
from rellm_cache.utils.console import counted, percent


@click.command()
@options.run_argument
@options.manifest_argument
@options.run_cache
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=6,
    help="Clips in the report, with their answers.",
)
@click.option(
    "--empathy",
    type=options.EXISTING_FOLDER,
    metavar="FOLDER",
    help="Folder of `rellm empathy train`: the run answers every clip with a transcript, and the "
    "scorer scores the answers.",
)
@click.option(
    "--out",
    type=options.FOLDER,
    metavar="FOLDER",
    help="Folder for scores and report; RUN by default. Needed for a published RUN.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace the scores of another manifest in that folder."
)
@click.option(
    "--orders",
    type=click.IntRange(min=1),
    default=1,
    help="Orders of the options in the recognition prompt over which the LLM's label probabilities "
    "are averaged: the paper's, then shuffled ones.",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Divide the LLM's label probabilities by those after an empty speech.",
)
@click.option(
    "--export",
    type=click.Choice(["voicebench", "urobench", "jsonl"]),
    help="Also answer every clip, and write the answers into that folder in the form that this "
    "harness reads.",
)
@options.workers("clip", "predictions and answers are made")
@options.as_json
def evaluate(
    run: Path,
    manifest: Path,
    cache: Path | None,
    samples: int,
    empathy: Path | None,
    out: Path | None,
    overwrite: bool,
    orders: int,
    calibrate: bool,
    export: Literal["voicebench", "urobench", "jsonl"] | None,
    workers: int | None,
    shard: str | None,
    ray: str,
    as_json: bool,
) -> None:
    """Score a trained run on a manifest file or folder.

    Writes scores.json, predictions.csv and report.html (curves, confusion matrices, samples) into
    RUN, and updates the model card RUN/README.md. Predictions and answers for each clip are kept in
    evaluated.jsonl. If the command is killed, run it again to continue. A repeated command computes
    only what has changed. Scores of another manifest are not replaced without --overwrite. Of
    several shards, the last one scores.
    """
    from rellm_cache.evaluation.run import EvaluationOptions, evaluate_by_workers
    from rellm_cache.workers.options import WorkerOptions

    asked = EvaluationOptions(
        samples,
        empathy=empathy,
        overwrite=overwrite,
        orders=orders,
        calibrate=calibrate,
        export=export,
    )
    divided = WorkerOptions.parse(workers, ray, shard)
    found = evaluate_by_workers(run, manifest, cache, asked, out, divided)
    if found is None:
        return  # of a shard, whose message has been printed
    scores = found.to_json()
    if as_json:
        print_json(scores)
        return
    print_scores(scores)
    print_layer_weights(found.layer_weights)
    click.echo(f"Scores: {(out or run) / 'scores.json'}")
    click.echo(f"Report: {(out or run) / 'report.html'}")


def print_scores(scores: dict[str, Any]) -> None:
    """Print the scores as tables."""
    rows: list[list[str | None]] = []
    head, llm = scores["head"], scores["llm"]
    if "ua" in head:
        rows.append(["category head", *_recognition(head), None])
    if llm is not None:
        rows.append(["LLM, likelihood", *_recognition(llm), None])
    if llm is not None and (words := llm["generation"]):
        rows.append(["LLM, in words", *_recognition(words), percent(llm["unparsable"])])
    columns = ["recognition", "UA", "95 % interval", "accuracy", "unparsable"]
    print_table(counted(scores["clips"], "clip"), columns, rows)
    if llm is not None and llm["requests"]:
        print_requests(llm["requests"])
    if "kl" in head:
        click.echo(f"KL(raters || category head): {head['kl']:.4f} nats")
    if head["ccc"]:
        rows = []
        for name, value in head["ccc"].items():
            low, high = head["ccc_intervals"][name]
            interval = None if low is None else f"{low:.3f} … {high:.3f}"
            rows.append([name, decimals(value, 3), interval])
        columns = ["dimension", "CCC", "95 % interval"]
        print_table("Dimensions, dimension head", columns, rows)
    if scores["empathy"] is not None:
        print_empathy(scores["empathy"])
    for title, part in (("category head", head), ("LLM, likelihood", llm)):
        if part and "confusion" in part:
            print_confusion(f"Confusion, {title} (rows: true)", part)


def _recognition(part: dict[str, Any]) -> list[str]:
    """UA, its interval and accuracy as text."""
    low, high = part["ua_interval"]
    return [percent(part["ua"]), f"{100 * low:.0f} to {100 * high:.0f}", percent(part["accuracy"])]


def print_requests(part: dict[str, Any]) -> None:
    """Print the UA of the LLM's likeliest labels by wording and order of the request."""
    rows: list[list[str | None]] = [["first wording and order alone", percent(part["plain"])]]
    for key, noun in (("wordings", "wording"), ("orders", "order of options")):
        if len(part[key]) > 1:
            rows += [[f"{noun} {n}", percent(ua)] for n, ua in enumerate(part[key], 1)]
    if len(part["wordings"]) > 1:
        rows.append(["highest minus lowest wording", percent(part["spread"])])
    if part["uncalibrated"] is not None:
        rows.append(["not calibrated", percent(part["uncalibrated"])])
    print_table("LLM, likelihood, by request", ["", "UA"], rows)


def print_empathy(part: dict[str, Any]) -> None:
    """Print empathy levels and lengths of the answers."""
    from rellm_cache.metrics.intervals import Summary

    def shown(summary: dict[str, Any]) -> str:
        return str(Summary(**summary))

    longer = part["long_levels"]
    rows = [[name, shown(s), shown(longer[name])] for name, s in part["levels"].items()]
    rows += [[name, shown(part[name]), "–"] for name in ("words", "questions")]
    answers, cut = counted(part["count"], "answer"), counted(part["replies_cut"], "was", "were")
    title = f"Empathy of {answers}, mean (SD); {cut} cut"
    print_table(title, ["", "as EPITOME cuts", "longer limit"], rows)


def print_confusion(title: str, part: dict[str, Any]) -> None:
    """Print one confusion matrix, with a column of unparsable answers if there are any."""
    unparsable = any(row[-1] for row in part["confusion"])
    columns = ["true", *part["labels"], *(["none"] if unparsable else []), "recall"]
    rows = []
    for label, counts in zip(part["labels"], part["confusion"], strict=True):
        recall = part["recalls"].get(label)
        shown = counts if unparsable else counts[:-1]
        rows.append([label, *map(str, shown), "–" if recall is None else percent(recall)])
    print_table(title, columns, rows)
