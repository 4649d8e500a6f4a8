"""rellm cache copy, export and import: stores to other caches and files, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from rellm_cache.cli import options
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
    from rellm_cache.corpus.array_files import ArrayFormat
    from rellm_cache.store.maintenance.copy import CopyReport


@click.command()
@click.argument("source", type=options.CacheRoot(exists=True))
@click.argument("target", type=options.CacheRoot())
@click.option(
    "--store", "names", multiple=True, metavar="NAME", help="Copy only this store. Repeatable."
)
def copy(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy stores from SOURCE to TARGET and verify every byte.

    Both are cache roots: folders or URLs. Parts that TARGET has already are skipped. If the command
    is killed, run it again to continue.
    """
    from rellm_cache.cache_admin.maintenance import copy_cache

    for report in copy_cache(source, target, names):
        _show(report, "copied")


@click.command()
@options.store_argument
@click.argument("file", type=options.ANY_PATH)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["hdf5", *options.ARRAY_FORMATS]),
    default="hdf5",
    help="Format of FILE; for npy a folder.",
)
@click.option(
    "--mean", is_flag=True, help="Write the mean of each utterance's frames. Not for hdf5."
)
@click.option(
    "--manifest",
    type=options.EXISTING,
    help="Write the utterances of this manifest file or folder alone, with their labels. Not for "
    "hdf5.",
)
@click.option(
    "--layer",
    "layers",
    type=int,
    multiple=True,
    help="Write this layer of a store of several; -1 is the last. Repeatable. Not for hdf5.",
)
def export(
    store: Path,
    file: Path,
    kind: "Literal['hdf5'] | ArrayFormat",
    mean: bool,
    manifest: Path | None,
    layers: tuple[int, ...],
) -> None:
    """Write STORE to a new FILE, for programs without rellm.

    hdf5 is the whole store, bit for bit, which `rellm cache import` reads. parquet has a row for
    each utterance and needs 'rellm[parquet]'. safetensors has one array of all frames, with
    offsets; its ids and labels may take 100 MB. npy is a folder with the same arrays, which can be
    memory-mapped, and utterances.jsonl.

    The last three hold the newest version of each clip: float16 frames as they are stored, int8
    frames as float32, which is four times as large.
    """
    from rellm_cache.cache_admin.export import ExportOptions
    from rellm_cache.cache_admin.export import export as write

    rows = write(store, file, kind, ExportOptions(mean, manifest, layers))
    click.echo(f"{file}: {counted(rows, 'utterance')}")


@click.command("import")
@click.argument("file", type=options.EXISTING_FILE)
@options.cache
def import_(file: Path, cache: Path) -> None:
    """Add an exported HDF5 FILE to the cache and verify every row."""
    from rellm_cache.cache_admin.maintenance import import_from_file

    _show(import_from_file(file, cache), "added")


def _show(report: "CopyReport", verb: str) -> None:
    click.echo(
        f"{display_path(report.store)}: {counted(report.copied, 'part')} {verb} "
        f"({counted(report.utterances, 'utterance')}), {report.present} already present"
    )
