"""LRU eviction of downloaded frames: all mirrors below one folder share a size limit.

A process holds a shared lock on each file that it has mapped; the kernel keeps it as long as the
map exists. Files without a lock are removed, the least recently used first. The other files of a
part are small and stay.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rellm_cache.errors import StoreError
from rellm_cache.store.format import FRAMES, WRITING, list_parts, list_stores
from rellm_cache.store.locks import remove_stale
from rellm_cache.store.remote.mirror_paths import MARKER, display_path, mirrors_max_bytes
from rellm_cache.utils.locks import NO_LOCKS, hold_lock
from rellm_cache.utils.regular_files import open_regular

RESERVED = "reserved"  # a sparse file as large as the download in the same folder
LOCK = "room"  # earlier versions use this name too


def reserve_space(root: Path, nbytes: int, temporary: Path) -> Path:
    """Evict files until a download of `nbytes` fits into the limit, and reserve its space.

    Returns the path to download to, in the locked folder `temporary` of the mirror `root`. Raises
    `StoreError` if files in use leave too little space.
    """
    with hold_lock(root.parent / WRITING / LOCK):
        _evict_until_it_fits(root, nbytes, mirrors_max_bytes())
        temporary.mkdir(parents=True, exist_ok=True)
        with (temporary / RESERVED).open("wb") as file:
            file.truncate(nbytes)
    return temporary / "fetched"


def evict_over_limit(root: Path) -> None:
    """Evict files that are not in use until the total is within the limit."""
    with hold_lock(root.parent / WRITING / LOCK), contextlib.suppress(StoreError):
        _evict_until_it_fits(root, 0, mirrors_max_bytes())


def _evict_until_it_fits(root: Path, nbytes: int, max_bytes: int) -> None:
    mirrors = [marker.parent for marker in root.parent.glob(f"*/{MARKER}")]
    files = [file for mirror in mirrors for file in _frames_files(mirror)]
    downloaded = sum(size for _, size, _ in files)
    taken = downloaded + sum(map(_reserved_bytes, mirrors))
    if taken + nbytes <= max_bytes:
        return
    for mirror in mirrors:
        remove_stale(mirror)  # reservations of dead processes
    taken = downloaded + sum(map(_reserved_bytes, mirrors))
    for _, size, path in sorted(files):
        if taken + nbytes <= max_bytes:
            return
        if _evict(path):
            taken -= size
    if taken + nbytes > max_bytes:
        raise StoreError(
            f"{display_path(root)}: no space for {nbytes / 1e9:.3g} GB of frames: the limit for "
            f"mirrors in {root.parent} is {max_bytes / 1e9:.3g} GB, and running processes use "
            f"{taken / 1e9:.3g} GB of it; set RELLM_COPIES_GB higher, and RELLM_COPIES to a larger "
            "disk"
        )


def _frames_files(mirror: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield last use in nanoseconds, size and path of each downloaded file of frames."""
    for store in list_stores(mirror):
        for part in list_parts(store):
            for path in (part / FRAMES / "c").rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    if path.is_file():
                        status = path.stat()
                        yield status.st_mtime_ns, status.st_size, path


def _reserved_bytes(mirror: Path) -> int:
    """Return the bytes reserved by downloads in progress."""
    sizes = 0
    for path in mirror.glob(f"{WRITING}/*/{RESERVED}"):
        with contextlib.suppress(FileNotFoundError):
            sizes += path.stat().st_size
    return sizes


def _evict(file: Path) -> bool:
    """Remove a file of frames unless a process uses it or its array; return whether it is gone."""
    array = next(folder for folder in file.parents if folder.name == FRAMES) / "zarr.json"
    with contextlib.ExitStack() as held:
        for path in (array, file):
            try:
                handle = held.enter_context(open_regular(path))
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                return path == file  # its part is being removed, or it is gone already
            except OSError as error:
                if isinstance(error, BlockingIOError) or error.errno in NO_LOCKS:
                    return False  # in use, or possibly in use
                raise
        file.unlink(missing_ok=True)
    return True


def open_in_use(file: Path) -> BinaryIO:
    """Open a file of a mirror, locked against eviction until it is closed and unmapped.

    Raises `FileNotFoundError` if it is not downloaded, or was just evicted.
    """
    handle = open_regular(file)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            handle.close()
            raise
    if not os.fstat(handle.fileno()).st_nlink:
        handle.close()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    now = time.time_ns()  # a file system's clock only ticks every few milliseconds
    with contextlib.suppress(PermissionError):  # another user's file: its time stays
        os.utime(handle.fileno(), ns=(now, now))
    return handle
