"""cache verify, repair, prune, compact, copy, export and import.

In: cache roots, or an exported file. Out: a report for each store.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.errors import StoreError
from rellm_cache.store.format import list_parts
from rellm_cache.store.locks import remove_stale
from rellm_cache.store.maintenance.compact import (
    CompactReport,
    PruneReport,
    compact_store,
    prune_store,
)
from rellm_cache.store.maintenance.copy import CopyReport, copy_store
from rellm_cache.store.maintenance.hdf5 import count_parts, export_store, import_store
from rellm_cache.store.maintenance.repair import RepairReport, repair_store
from rellm_cache.store.maintenance.verify import StoreCheck, check_store, find_stores
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.remote.stale_uploads import StaleUpload, remove_stale_uploads
from rellm_cache.utils.console import progress


@dataclass(frozen=True)
class CacheRepair:
    """What repairing a cache root did.

    Attributes:
        stores: a report for each store.
        swept: what dead processes had left in `.writing/`, removed.
        held: what live processes are writing there.
        unfinished: parts that were not sent whole to the object store that the root is a copy of.
    """

    stores: list[RepairReport]
    swept: list[Path]
    held: list[Path]
    unfinished: list[StaleUpload]


def verify_cache(cache: Path) -> list[StoreCheck]:
    """Read every byte of every store under a cache root.

    Raises:
        StoreError: there is no store.
    """
    stores = find_stores(cache)
    with progress("Verifying", _parts(stores), "parts") as tick:
        return [check_store(store, tick) for store in stores]


def repair_cache(cache: Path, unfinished_hours: float = 24.0) -> CacheRepair:
    """Drop what is broken, keep what is whole, and remove what dead processes left.

    Args:
        unfinished_hours: how old a part must be that was not sent whole to an object store, to be
            one that nobody is sending.

    Raises:
        StoreError: there is no store, one is being maintained or cannot be written.
        RemoteError: the object store cannot be reached, read or written.
    """
    sync_mirror(cache)
    swept, held = remove_stale(cache)
    stores = find_stores(cache)
    unfinished = remove_stale_uploads(cache, unfinished_hours)
    with progress("Repairing", _parts(stores), "parts") as tick:
        reports = [repair_store(store, tick) for store in stores]
    return CacheRepair(reports, swept, held, unfinished)


def prune_cache(
    cache: Path, manifests: Sequence[Path] = (), dry_run: bool = False
) -> list[PruneReport]:
    """Drop superseded rows and, where manifests are given, clips that none of them names.

    Raises:
        ManifestError: a manifest cannot be used; nothing was changed.
        StoreError: there is no store, or one is damaged, being maintained or cannot be written.
    """
    keep = {u.id for path in manifests for u in read_manifests(path)} if manifests else None
    sync_mirror(cache)
    stores = find_stores(cache)
    with progress("Pruning", _parts(stores), "parts") as tick:
        return [prune_store(store, tick, keep, dry_run) for store in stores]


def compact_cache(cache: Path, part_bytes: int) -> list[CompactReport]:
    """Merge small parts of every store.

    Args:
        part_bytes: most bytes of frames in a merged part.

    Raises:
        StoreError: there is no store, or one is damaged, being maintained or cannot be written.
    """
    sync_mirror(cache)
    stores = find_stores(cache)
    with progress("Compacting", _parts(stores), "parts") as tick:
        return [compact_store(store, tick, part_bytes) for store in stores]


def copy_cache(source: Path, target: Path, names: Sequence[str] = ()) -> list[CopyReport]:
    """Copy stores to another cache root: those named, or all.

    Raises:
        StoreError: a named store is not there, a part is damaged or the target cannot be written.
    """
    found = {store.name: store for store in find_stores(source)}
    for name in names:
        if name not in found:
            raise StoreError(f"{source}: no store {name!r}; found {', '.join(sorted(found))}")
    stores = [found[name] for name in names or sorted(found)]
    with progress("Copying", _parts(stores), "parts") as tick:
        return [copy_store(store, target, tick) for store in stores]


def export_to_file(store: Path, file: Path) -> int:
    """Write one store to an HDF5 file; the number of its rows.

    Raises:
        StoreError: the store is damaged, or the file exists or cannot be written.
    """
    with progress("Exporting", len(list_parts(store)), "parts") as tick:
        return export_store(store, file, tick)


def import_from_file(file: Path, cache: Path) -> CopyReport:
    """Add the parts of an exported file to a cache.

    Raises:
        StoreError: the file is damaged or no exported store, or the cache cannot be written.
    """
    with progress("Importing", count_parts(file), "parts") as tick:
        return import_store(file, cache, tick)


def _parts(stores: Iterable[Path]) -> int:
    return sum(len(list_parts(store)) for store in stores)
