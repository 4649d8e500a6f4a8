"""rellm cache copy, export and import: stores to and from other caches and HDF5 files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rellm_cache.cli import options
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import counted

if TYPE_CHECKING:
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
@click.argument("file", type=options.FILE)
def export(store: Path, file: Path) -> None:
    """Write STORE to one HDF5 FILE, which h5py can read."""
    from rellm_cache.cache_admin.maintenance import export_to_file

    rows = export_to_file(store, file)
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
