"""Locks of a cache under `.writing/`, and removal of files that dead processes left there.

A path in `.writing/` without a held lock (`utils/locks`) was left by a dead process. Some shared
file systems do not show locks to other machines, so names of large folders end with the host name.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rellm_cache.errors import StoreError
from rellm_cache.store.format import WRITING
from rellm_cache.utils.litter import is_litter
from rellm_cache.utils.locks import NO_LOCKS, acquire_lock, lock_path, release_lock


@contextmanager
def maintenance_lock(store: Path) -> Iterator[None]:
    """Hold the lock for repair, prune, compact, copy or import; writers may still add parts.

    Raises `StoreError` if another process holds it.
    """
    path = lock_path(store.parent / WRITING / f"{store.name}.maintenance")
    try:
        handle, _ = acquire_lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            f"{store}: another `rellm cache` command is working on this store; run this one "
            "again when it is done"
        ) from error
    try:
        yield
    finally:
        release_lock(path, handle)


def remove_stale(cache: Path) -> tuple[list[Path], list[Path]]:
    """Remove files and folders that dead processes left in `.writing/`.

    Returns the removed paths, and the paths that may be in use: a live process holds them, or the
    file system has no locks.
    """
    removed: list[Path] = []
    held: list[Path] = []
    for path in _entries(cache):
        (removed if _remove_unless_locked(path) else held).append(path)
    with contextlib.suppress(OSError):
        (cache / WRITING).rmdir()
    return removed, held


def with_hostname(name: str) -> str:
    """Append the name of this machine to a name under `.writing/`."""
    return f"{name}@{os.uname().nodename}"


def remove_own_stale(cache: Path) -> None:
    """Remove paths under `.writing/` with this machine's name that dead processes left.

    Errors are ignored; `remove_stale` will report them.
    """
    for path in _entries(cache):
        if path.name.endswith(with_hostname("")):
            with contextlib.suppress(OSError):
                _remove_unless_locked(path)
    with contextlib.suppress(OSError):
        (cache / WRITING).rmdir()


def _entries(cache: Path) -> list[Path]:
    """List paths under `.writing/` by name, including those with only a lock."""
    try:
        entries = [path for path in (cache / WRITING).iterdir() if not is_litter(path)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted({entry.with_name(entry.name.removesuffix(".lock")) for entry in entries})


def _remove_unless_locked(temporary: Path) -> bool:
    """Remove a path under `.writing/`; return False if a live process holds its lock."""
    try:
        handle = os.open(lock_path(temporary), os.O_RDWR)
    except FileNotFoundError:  # a lock is created first and removed last
        remove_path(temporary)
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_path(temporary)
        lock_path(temporary).unlink(missing_ok=True)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, *NO_LOCKS):
            return False
        raise
    finally:
        os.close(handle)
    return True


@contextmanager
def removed_on_exit(temporary: Path) -> Iterator[None]:
    """Remove a folder when the block ends, unless it was renamed; the caller holds its lock."""
    try:
        yield
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_path(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
