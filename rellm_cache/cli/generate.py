"""rellm generate: answer speech with a trained run."""

from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.utils.console import counted


@click.command()
@options.run_argument
@click.argument("source", type=options.EXISTING)
@options.out("JSON Lines file for the answers.", options.FILE)
@options.run_cache
@click.option("--from-audio", is_flag=True, help="Encode the audio instead of reading the cache.")
@options.batch_size(8, "Clips answered at a time.")
@options.workers("clip", "the clips are answered")
@options.prompt_overrides
@options.overwrite
def generate(
    run: Path,
    source: Path,
    out: Path,
    cache: Path | None,
    from_audio: bool,
    batch_size: int,
    workers: int | None,
    shard: str | None,
    ray: str,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Answer speech with a trained run.

    SOURCE is a manifest file or folder, with frames in the cache, or one sound file, encoded live.
    Only prompts.* can be set: `--set prompts.answer_sentences=2` keeps answers short. If the
    command is killed, run it again to continue. Of several shards, the last one writes the file.
    """
    from rellm_cache.workers.options import WorkerOptions

    divided = WorkerOptions.parse(workers, ray, shard)

    from rellm_cache.inference.generate import generate as answer

    generations = answer(
        run,
        source,
        out,
        cache,
        from_audio,
        batch_size,
        overrides,
        overwrite=overwrite,
        options=divided,
    )
    if not generations:
        return  # of a shard, whose message has been printed
    for generation in generations[:3]:
        heard = f" ({generation.emotion})" if generation.emotion else ""
        click.echo(f"{generation.id}{heard}: {generation.response}")
    click.echo(f"{counted(len(generations), 'answer')}: {out}")
