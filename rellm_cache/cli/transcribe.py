"""rellm transcribe: transcripts of clips by Whisper."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import SOME_FAILED, print_json, print_next, print_table
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted, percent

if TYPE_CHECKING:
    from rellm_cache.annotation.transcripts import TranscribeReport
    from rellm_cache.metrics.word_error_rate import WordErrors


@click.command()
@click.argument("manifests", metavar="MANIFEST...", nargs=-1, required=True, type=options.EXISTING)
@options.recipe
@options.cache
@options.batch_size(16, "Clips transcribed at a time on a GPU; a CPU takes one.")
@options.workers("clip", "the clips are transcribed")
@options.as_json
def transcribe(
    manifests: tuple[Path, ...],
    recipe: str,
    overrides: tuple[str, ...],
    cache: Path,
    batch_size: int,
    workers: int | None,
    shard: str | None,
    ray: str,
    as_json: bool,
) -> int:
    """Transcribe clips with the recipe's Whisper.

    MANIFEST is a manifest file or folder. If the command is killed, run it again to continue. Clips
    with changed audio are transcribed again. Each of several shards adds its transcripts to one
    file.

    Exit code 3: done, but some clips failed. They are listed in a file beside the transcripts.
    """
    from rellm_cache.annotation.transcripts import transcribe as run
    from rellm_cache.config.recipes import load_recipe
    from rellm_cache.workers.options import WorkerOptions

    settings = load_recipe(recipe, overrides)
    divided = WorkerOptions.parse(workers, ray, shard)
    report = run(manifests, settings, cache, batch_size, options=divided)
    if as_json:
        print_json(to_json(report))
    else:
        show(report)
        where = ["--cache", display_path(cache)]
        if settings.text is None:
            print_next(["extract", f"{manifests[0]}"], recipe, overrides, where)
        else:  # it reads, and needs no frames
            print_next(["train", "--manifest", "FOLDER", "--out", "RUN"], recipe, overrides, where)
    return SOME_FAILED if report.failed else 0


def show(report: "TranscribeReport") -> None:
    """Print counts and the word errors against the texts of the manifests."""
    there = counted(report.present, "was", "were")
    if report.transcribed:
        click.echo(
            f"{counted(report.transcribed, 'clip')} transcribed ({report.hours:.2f} h, "
            f"{report.seconds:.1f} s), {there} there already"
        )
    elif report.failed:
        click.echo(f"No clip transcribed, {there} there already")
    else:
        there = counted(report.present, "transcript is", "transcripts are")
        click.echo(f"Nothing to do, {there} there")
    if report.changed:
        changed = counted(report.changed, "clip")
        click.echo(f"  {changed} had other audio before: the old transcripts were replaced")
    if report.empty:
        empty = counted(report.empty, "transcript is", "transcripts are")
        click.echo(f"  {empty} empty: no words were heard")
    if report.cut:
        cut = counted(report.cut, "transcript ends", "transcripts end")
        click.echo(f"  {cut} at transcriber.max_tokens")
    if report.failed:
        click.echo(
            f"  {counted(report.failed, 'clip')} failed, see {display_path(report.failures)}"
        )
    if report.errors is not None:
        parts = {**report.emotion_errors, "all": report.errors}
        rows = [[n, str(p.errors), str(p.words), percent(p.rate)] for n, p in parts.items()]
        columns = ["emotion", "errors", "words", "word error rate"]
        print_table("Against the manifests' texts", columns, rows)
    click.echo(f"Transcripts: {display_path(report.path)}")


def to_json(report: "TranscribeReport") -> dict[str, Any]:
    """The report as `--json` prints it; `word_errors` is null where manifests have no texts."""

    def figures(errors: "WordErrors") -> dict[str, Any]:
        return {**vars(errors), "rate": errors.rate}

    by_emotion = {name: figures(errors) for name, errors in report.emotion_errors.items()}
    return {
        "path": display_path(report.path),
        "failures": display_path(report.failures) if report.failed else None,
        **{name: getattr(report, name) for name in COUNTS},
        "word_errors": figures(report.errors) if report.errors else None,
        "word_errors_by_emotion": by_emotion,
    }


COUNTS = (
    "transcribed", "present", "changed", "failed", "empty", "cut", "hours", "seconds",
)  # fmt: skip
