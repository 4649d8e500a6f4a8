"""How much of object stores lies here. In: what is to be fetched. Out: room for it in the bound.

The frames of all copies below one folder share the bound. What a process has mapped carries a
shared lock on its open file, which the kernel keeps as long as the map lives; whatever has none
may go, the least recently used first. Everything else of a part is small and stays.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rellm_cache.errors import StoreError
from rellm_cache.store.format import FRAMES, WRITING, list_parts, list_stores
from rellm_cache.store.locks import NO_LOCKS, hold_lock, remove_stale
from rellm_cache.store.remote.mirror_paths import MARKER, display_path, mirrors_max_bytes

RESERVED = "reserved"  # a sparse file as large as what is being fetched beside it


@dataclass(frozen=True)
class _FramesFile:
    """A file of frames that lies here."""

    path: Path
    nbytes: int
    used: int  # when, in nanoseconds


def reserve_space(root: Path, nbytes: int, temporary: Path) -> Path:
    """Make room for a file of `nbytes` that is about to be fetched to a claimed folder.

    Args:
        root: of the copy it belongs to; all copies beside it share the bound.

    Returns:
        Where to fetch it to.

    Raises:
        StoreError: what is in use leaves no room for it.
    """
    with hold_lock(root.parent / WRITING / "room"):
        _evict_until_it_fits(root, nbytes, mirrors_max_bytes())
        temporary.mkdir(parents=True, exist_ok=True)
        with (temporary / RESERVED).open("wb") as file:
            file.truncate(nbytes)
    return temporary / "fetched"


def evict_over_limit(root: Path) -> None:
    """Let frames go that are beyond the bound, as far as none are in use."""
    with hold_lock(root.parent / WRITING / "room"), contextlib.suppress(StoreError):
        _evict_until_it_fits(root, 0, mirrors_max_bytes())


def _evict_until_it_fits(root: Path, nbytes: int, bound: int) -> None:
    roots = [mark.parent for mark in root.parent.glob(f"*/{MARKER}")]
    held = [file for copy in roots for file in _frames_files(copy)]
    taken = sum(file.nbytes for file in held) + sum(map(_reserved_bytes, roots))
    if taken + nbytes <= bound:
        return
    for copy in roots:
        remove_stale(copy)  # what killed processes had reserved
    taken = sum(file.nbytes for file in held) + sum(map(_reserved_bytes, roots))
    for file in sorted(held, key=lambda file: file.used):
        if taken + nbytes <= bound:
            return
        if _evict(file.path):
            taken -= file.nbytes
    if taken + nbytes > bound:
        raise StoreError(
            f"{display_path(root)}: no room for {nbytes / 1e9:.3g} GB of frames: copies in "
            f"{root.parent} may take {bound / 1e9:.3g} GB, of which {taken / 1e9:.3g} GB are in "
            "use by running processes; set RELLM_COPIES_GB higher, and RELLM_COPIES to a larger "
            "disk"
        )


def _frames_files(copy: Path) -> Iterator[_FramesFile]:
    for store in list_stores(copy):
        for part in list_parts(store):
            for path in (part / FRAMES / "c").rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    if path.is_file():
                        status = path.stat()
                        yield _FramesFile(path, status.st_size, status.st_mtime_ns)


def _reserved_bytes(copy: Path) -> int:
    """Bytes that other processes are fetching."""
    sizes = 0
    for path in copy.glob(f"{WRITING}/*/{RESERVED}"):
        with contextlib.suppress(FileNotFoundError):
            sizes += path.stat().st_size
    return sizes


def _evict(file: Path) -> bool:
    """Remove a file of frames unless a process uses it, or its whole array."""
    array = next(folder for folder in file.parents if folder.name == FRAMES) / "zarr.json"
    with contextlib.ExitStack() as held:
        for path in (array, file):
            try:
                handle = held.enter_context(path.open("rb"))
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                return path == file  # its part is being removed, or it is gone
            except OSError as error:
                if isinstance(error, BlockingIOError) or error.errno in NO_LOCKS:
                    return False  # in use, or nobody can tell
                raise
        file.unlink(missing_ok=True)
    return True


def open_in_use(file: Path) -> BinaryIO:
    """Open a file of a copy, marked as in use until it is closed and no map of it is left.

    Raises:
        FileNotFoundError: it is not here, or was removed at this moment.
    """
    handle = file.open("rb")
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            handle.close()
            raise
    if not os.fstat(handle.fileno()).st_nlink:
        handle.close()
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    now = time.time_ns()  # a file system's own clock ticks every few milliseconds
    with contextlib.suppress(PermissionError):  # of another user: it counts as unused since then
        os.utime(handle.fileno(), ns=(now, now))
    return handle
