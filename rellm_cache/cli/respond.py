"""rellm respond: expected responses from transcripts (step 1), and the teacher store."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.config.schema import Recipe


@click.command()
@options.manifest_argument
@options.recipe
@options.batch_size(64, "Answers written at a time; fewer where a GPU has no room.")
@options.workers("prompt", "the prompts are answered")
@options.endpoint("write")
@click.option(
    "--teacher",
    is_flag=True,
    help="Write no responses: store the LLM's next-token distributions along existing responses in "
    "the cache, for losses.response_kl.",
)
@options.cache
@options.overwrite
def respond(
    manifest: Path,
    recipe: str,
    overrides: tuple[str, ...],
    batch_size: int,
    workers: int | None,
    shard: str | None,
    ray: str,
    endpoint: str | None,
    endpoint_model: str | None,
    teacher: bool,
    cache: Path,
    overwrite: bool,
) -> None:
    """Write the expected responses with the chat LLM (step 1).

    MANIFEST is a manifest file or folder. The LLM continues each transcript in the tone of its
    emotion. Responses are written beside the manifest as SPLIT.responses.jsonl and are read with
    it. Run again with --teacher for distillation. If the command is killed, run it again to
    continue. Of several shards, the last one writes the file.
    """
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.workers.options import WorkerOptions

    settings = load_recipe(recipe, overrides)
    divided = WorkerOptions.parse(workers, ray, shard)
    if endpoint is not None and divided.has_workers:
        raise click.UsageError("--endpoint asks a server; leave out --workers and --ray")
    if teacher:
        if endpoint is not None:
            raise click.UsageError("--teacher needs the recipe's own LLM; leave out --endpoint")
        if divided != WorkerOptions():
            raise click.UsageError("--teacher runs here; leave out --workers, --shard and --ray")
        _write_teacher(manifest, settings, cache)
        return
    from rellm_cache.annotation.endpoint import connect_if
    from rellm_cache.annotation.responses import respond as run

    server = connect_if(endpoint, endpoint_model)
    for report in run(
        manifest, settings, batch_size, overwrite=overwrite, endpoint=server, options=divided
    ):
        if report.unfinished:
            click.echo(f"{report.path}: {report.generated} generated now; {report.unfinished}")
            continue
        written = counted(report.written, "response")
        click.echo(f"{report.path}: {written}, {report.generated} generated now")
        for reason, count in report.dropped.items():
            click.echo(f"  dropped {count}: {reason}")


def _write_teacher(manifest: Path, recipe: "Recipe", cache: Path) -> None:
    from rellm_cache.annotation.teacher import write_teacher_store

    report = write_teacher_store(manifest, recipe, cache)
    changed = f", {report.changed} of them changed" if report.changed else ""
    click.echo(
        f"{display_path(report.path)}: {counted(report.written, 'response')} stored now{changed}, "
        f"{counted(report.present, 'was', 'were')} already there"
    )
    if report.skipped:
        click.echo(f"  skipped {report.skipped} with a response, but no transcript or no emotion")
