"""Maintenance of a whole cache root: verify, repair, prune, compact, copy, export and import."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
from rellm_cache.utils.console import Tick, progress

Report = TypeVar("Report")


@dataclass(frozen=True)
class CacheRepair:
    """Result of repairing a cache root."""

    stores: list[RepairReport]  # report of each store
    removed: list[Path]  # paths that dead processes left in `.writing/`
    held: list[Path]  # paths that live processes are writing there
    stale_uploads: list[StaleUpload]  # incomplete parts in the object store


def verify_cache(cache: Path) -> list[StoreCheck]:
    """Read and check every byte of all stores under a cache root; `StoreError` if there is none."""
    return _for_each("Verifying", find_stores(cache), check_store)


def repair_cache(cache: Path, unfinished_hours: float = 24.0) -> CacheRepair:
    """Drop damaged rows, keep intact ones, and remove files that dead processes left.

    An incomplete part in an object store is removed at the age of `unfinished_hours`. Raises
    `StoreError` if there is no store, or one is in maintenance or cannot be written; `RemoteError`
    if the object store cannot be reached, read or written.
    """
    sync_mirror(cache)
    removed, held = remove_stale(cache)
    stores = find_stores(cache)
    stale_uploads = remove_stale_uploads(cache, unfinished_hours)
    reports = _for_each("Repairing", stores, repair_store)
    return CacheRepair(reports, removed, held, stale_uploads)


def prune_cache(
    cache: Path, manifests: Sequence[Path] = (), dry_run: bool = False
) -> list[PruneReport]:
    """Drop superseded rows and, if manifests are given, clips that are in none of them.

    Raises `ManifestError` if a manifest is not valid; then nothing is changed. Raises `StoreError`
    if there is no store, or one is damaged, in maintenance or cannot be written.
    """
    keep = {u.id for path in manifests for u in read_manifests(path)} if manifests else None
    sync_mirror(cache)
    stores = find_stores(cache)
    return _for_each("Pruning", stores, lambda path, tick: prune_store(path, tick, keep, dry_run))


def compact_cache(cache: Path, part_bytes: int) -> list[CompactReport]:
    """Merge small parts of every store, up to `part_bytes` of frames in one part.

    Raises `StoreError` if there is no store, or one is damaged, in maintenance or cannot be
    written.
    """
    sync_mirror(cache)
    stores = find_stores(cache)
    return _for_each("Compacting", stores, lambda path, tick: compact_store(path, tick, part_bytes))


def copy_cache(source: Path, target: Path, names: Sequence[str] = ()) -> list[CopyReport]:
    """Copy the named stores, or all, to another cache root.

    Raises `StoreError` if one does not exist, a part is damaged or the target cannot be written.
    """
    found = {store.name: store for store in find_stores(source)}
    for name in names:
        if name not in found:
            raise StoreError(f"{source}: no store {name!r}; found {', '.join(sorted(found))}")
    stores = [found[name] for name in names or sorted(found)]
    return _for_each("Copying", stores, lambda path, tick: copy_store(path, target, tick))


def export_to_file(store: Path, file: Path) -> int:
    """Write one store to an HDF5 file and return its number of rows.

    Raises `StoreError` if the store is damaged, or the file exists or cannot be written.
    """
    with progress("Exporting", len(list_parts(store)), "parts") as tick:
        return export_store(store, file, tick)


def import_from_file(file: Path, cache: Path) -> CopyReport:
    """Add the parts of an exported file to a cache.

    Raises `StoreError` if the file is damaged or not an export, or the cache cannot be written.
    """
    with progress("Importing", count_parts(file), "parts") as tick:
        return import_store(file, cache, tick)


def _for_each(
    title: str, stores: Sequence[Path], work: Callable[[Path, Tick], Report]
) -> list[Report]:
    """Call `work` for each store, with progress in parts."""
    with progress(title, sum(len(list_parts(store)) for store in stores), "parts") as tick:
        return [work(store, tick) for store in stores]
