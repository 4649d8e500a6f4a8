"""rellm cache info and ls: list stores of a cache, and clips of a store."""

import json
from pathlib import Path

import click

from rellm_cache.cli import options
from rellm_cache.cli.output import byte_size, decimals, print_json, print_table
from rellm_cache.store.remote.mirror_paths import display_path


@click.command()
@options.root_argument
@options.as_json
def info(root: Path, as_json: bool) -> None:
    """List the stores under ROOT.

    For each store: encoder, clips, hours, size, licence.
    """
    from rellm_cache.cache_admin.info import cache_info

    stores = cache_info(root)
    if as_json:
        print_json({"root": display_path(root), "stores": [*map(vars, stores)]})
        return
    rows = [
        (
            s.name,
            s.clips,
            decimals(s.hours, 2),
            f"{len(s.layers)} x {s.frame_size}" if s.layers else s.frame_size,
            byte_size(s.bytes),
            s.parts,
            s.failed,
            s.licence,
        )
        for s in stores
    ]
    columns = ["store", "clips", "hours", "values", "size", "parts", "failed", "licence"]
    print_table(display_path(root), columns, rows)


@click.command()
@options.store_argument
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, for each clip."
)
def ls(store: Path, as_json: bool) -> None:
    """List the clips of STORE: length, digest of the audio, part."""
    from rellm_cache.cache_admin.info import list_clips

    for clip in list_clips(store):
        if as_json:
            click.echo(json.dumps(vars(clip), ensure_ascii=False))
        else:
            length = f"{clip.frames} tokens" if clip.seconds is None else f"{clip.seconds:.2f} s"
            click.echo(f"{length:>9}  {clip.audio_sha256[:12]}  {clip.part}  {clip.id}")
