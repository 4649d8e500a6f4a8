"""One part in place of others. In: whole rows. Out: a committed part; then the old ones go.

The order makes a kill harmless: the new part is complete under its name before an old one goes,
and it sorts right after the last of them, so that whatever is read meanwhile is the same.
"""

import errno
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import zarr

from rellm_cache.errors import StoreError
from rellm_cache.store.format import WRITING, StoreInfo, replacement_name
from rellm_cache.store.locks import hold_lock, remove_path
from rellm_cache.store.part_writer import Row, write_part
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.upload import commit_part, remove_remote_part, upload_file
from rellm_cache.utils.atomic_files import rename, sync_path, sync_tree


@contextmanager
def temporary_folder(store: Path) -> Iterator[Path]:
    """A claimed path under `.writing/` to write to and rename; what is left there goes.

    Raises:
        StoreError: a file could not be written, renamed or removed.
    """
    temporary = store.parent / WRITING / f"{store.name}-{secrets.token_hex(4)}"
    try:
        with hold_lock(temporary):
            try:
                yield temporary
            finally:
                remove_path(temporary)
    except OSError as error:
        hint = "free some space" if error.errno == errno.ENOSPC else "check the folder"
        raise StoreError(
            f"{store}: could not be changed ({error}); {hint} and run the same command again: "
            "no part was removed before what replaces it was complete"
        ) from error


def replace_parts(
    old: Sequence[Path],
    rows: list[Row],
    info: StoreInfo,
    quantization: Quantization | None = None,
    writers: Sequence[dict[str, str]] = (),
) -> None:
    """Commit `rows` in place of adjacent parts `old`, oldest first; without rows they just go.

    Raises:
        StoreError: the disk is full or a folder cannot be written; every row is still there.
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
    """Let `write` make a part at a temporary path and commit it under a given name.

    Raises:
        StoreError: the disk is full or a folder cannot be written, or `write` raised it.
    """
    with temporary_folder(part.parent) as temporary:
        write(temporary)
        sync_tree(temporary)
        commit_part(temporary, part)


def remove_part(part: Path) -> None:
    """Remove a part, from the object store too that its folder is a copy of."""
    remove_remote_part(part)
    remove_local_part(part)


def remove_local_part(part: Path) -> None:
    """Remove a part from a folder: it leaves the store in one step, then its files go."""
    with temporary_folder(part.parent) as temporary:
        rename(part, temporary)
        sync_path(part.parent)


def restore_metadata(store: Path, info: StoreInfo) -> None:
    """Write a store's own zarr.json anew, in one step."""
    with temporary_folder(store) as temporary:
        zarr.create_group(str(temporary), attributes=info.to_attributes())
        sync_tree(temporary)
        rename(temporary / "zarr.json", store / "zarr.json")
    upload_file(store / "zarr.json")
