"""rellm embed: embeddings of speech by a trained run."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.corpus.array_files import ArrayFormat


@click.command()
@options.run_argument
@options.manifest_argument
@options.out("New file for the embeddings; for npy a new folder.", options.ANY_PATH)
@click.option(
    "--format",
    "kind",
    type=click.Choice(options.ARRAY_FORMATS),
    default="parquet",
    help="Format of the file, as in `rellm cache export`; parquet needs 'rellm[parquet]'.",
)
@click.option(
    "--states", is_flag=True, help="Also write the adapter's states, about six vectors a second."
)
@options.run_cache
@options.batch_size(16, "Clips embedded at a time.")
def embed(
    run: Path,
    manifest: Path,
    out: Path,
    kind: "ArrayFormat",
    states: bool,
    cache: Path | None,
    batch_size: int,
) -> None:
    """Write what a trained run makes of each utterance, as vectors.

    MANIFEST is a manifest file or folder with frames in the cache. Each utterance gets the vector
    `pooled`, which the heads read to tell emotion and dimensions, with its id and labels. `states`
    are what the adapter gives the LLM in place of words.
    """
    from rellm_cache import api

    count = api.embed(
        run, manifest, cache, out=out, format=kind, states=states, batch_size=batch_size
    )
    click.echo(f"{out}: {counted(count, 'utterance')}")
