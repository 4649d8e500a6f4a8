"""rellm qa: questions and answers about clips, written by the chat LLM."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import print_next, print_table
from rellm_cache.utils.console import counted


@click.command()
@options.manifest_argument
@options.recipe
@click.option(
    "--mode",
    type=click.Choice(["explicit", "implicit", "both"]),
    help="Rows to write, the same as --set qa.mode=…; as in the recipe by default.",
)
@options.batch_size(64, "Answers written at a time; fewer where a GPU has no room.")
@options.workers("request", "the requests are answered")
@options.endpoint("write")
def qa(
    manifest: Path,
    recipe: str,
    overrides: tuple[str, ...],
    mode: str | None,
    batch_size: int,
    workers: int | None,
    shard: str | None,
    ray: str,
    endpoint: str | None,
    endpoint_model: str | None,
) -> None:
    """Write questions and answers about clips with the chat LLM.

    MANIFEST is a manifest file or folder. The LLM reads transcript, emotion and dimensions of every
    utterance. Rows are written beside the manifest as SPLIT.questions.jsonl. Dropped rows have a
    reason; the others are used in training if losses.qa_lm is above 0. If the command is killed,
    run it again to continue. A repeated command asks only what has changed. Of several shards, the
    last one writes the file.
    """
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.workers.options import WorkerOptions

    chosen = (*overrides, f"qa.mode={mode}") if mode else overrides
    settings, divided = load_recipe(recipe, chosen), WorkerOptions.parse(workers, ray, shard)
    if endpoint is not None and divided.has_workers:
        raise click.UsageError("--endpoint asks a server; leave out --workers and --ray")

    from rellm_cache.annotation.endpoint import connect_if
    from rellm_cache.annotation.questions import write_questions

    server = connect_if(endpoint, endpoint_model)
    reports = write_questions(manifest, settings, batch_size, endpoint=server, options=divided)
    for report in reports:
        if report.unfinished:
            asked = counted(report.asked, "reply", "replies")
            click.echo(f"{report.path}: {asked} written now; {report.unfinished}")
            continue
        kept = sum(report.kept.values())
        written = counted(report.asked, "reply", "replies")
        asked = f"{written} written now" if report.asked else "nothing left to ask"
        click.echo(f"{report.path}: {counted(kept, 'question')}, {asked}")
        rows = [[*name, str(count)] for name, count in sorted(report.kept.items())]
        if rows:
            print_table("Kept for training", ["mode", "type", "rows"], rows)
        for reason, count in report.dropped.items():
            click.echo(f"  dropped {counted(count, 'row')}: {reason}")
        for reason, count in report.skipped.items():
            click.echo(f"  skipped {counted(count, 'utterance')}: {reason}")
    if any(report.unfinished for report in reports):
        return
    folder = manifest if manifest.is_dir() else manifest.parent
    where = ["--manifest", f"{folder}", "--out", "runs/questions"]
    print_next(["train"], recipe, (*chosen, "losses.qa_lm=1"), where)
