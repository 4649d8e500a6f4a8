"""Commit and replacement of parts; a kill at any moment loses no row.

A new part is complete under its name before an old one is removed. It sorts right after the last
old part, so readers see the same rows at every moment.
"""

import errno
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zarr

from rellm_cache.errors import StoreError
from rellm_cache.store.format import WRITING, StoreInfo, replacement_name
from rellm_cache.store.locks import remove_path
from rellm_cache.store.part_writer import Row, write_part
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.upload import commit_part, remove_remote_part, upload_file
from rellm_cache.utils.atomic_files import rename, sync_tree
from rellm_cache.utils.disk_errors import disk_reason
from rellm_cache.utils.locks import hold_lock
from rellm_cache.utils.sync import sync_path


@contextmanager
def temporary_folder(store: Path) -> Iterator[Path]:
    """Yield a locked path under `.writing/`, to write and rename; remove it if it was not renamed.

    Raises `StoreError` if a file could not be written, renamed or removed.
    """
    temporary = store.parent / WRITING / f"{store.name}-{secrets.token_hex(4)}"
    try:
        with hold_lock(temporary):
            try:
                yield temporary
            finally:
                remove_path(temporary)
    except OSError as error:
        hint = (
            "free some space" if error.errno == errno.ENOSPC else "check the folder and its space"
        )
        raise StoreError(
            f"{store}: could not be changed ({disk_reason(error)}); {hint} and run the same "
            "command again; nothing is lost"
        ) from error


def replace_parts(
    old: Sequence[Path],
    rows: list[Row],
    info: StoreInfo,
    quantization: Quantization | None = None,
    writers: Sequence[dict[str, str]] = (),
) -> None:
    """Replace adjacent parts `old`, oldest first, by one part of `rows`; without rows only remove.

    Raises `StoreError` if the disk is full or a folder cannot be written; no row is lost.
    """
    store = old[-1].parent
    if rows:
        with temporary_folder(store) as temporary:
            write_part(temporary, rows, info, quantization, writers)
            sync_tree(temporary)
            commit_part(temporary, store / replacement_name(old[-1]))
    for part in old:
        remove_part(part)


def add_part(part: Path, write: Callable[[Path], None]) -> None:
    """Let `write` create a part at a temporary path, and commit it as `part`.

    Raises `StoreError` if the disk is full, a folder cannot be written, or `write` raised it.
    """
    with temporary_folder(part.parent) as temporary:
        write(temporary)
        sync_tree(temporary)
        commit_part(temporary, part)


def remove_part(part: Path) -> None:
    """Remove a part; in a mirror, remove it from the object store first."""
    remove_remote_part(part)
    remove_local_part(part)


def remove_local_part(part: Path) -> None:
    """Remove a part from the local folder: rename it out of the store, then delete it."""
    with temporary_folder(part.parent) as temporary:
        rename(part, temporary)
        sync_path(part.parent)


def restore_metadata(store: Path, info: StoreInfo) -> None:
    """Replace a store's zarr.json."""
    with temporary_folder(store) as temporary:
        zarr.create_group(str(temporary), attributes=info.to_attributes())
        sync_tree(temporary)
        rename(temporary / "zarr.json", store / "zarr.json")
    upload_file(store / "zarr.json")
