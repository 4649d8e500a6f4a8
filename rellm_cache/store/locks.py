"""File locks of a cache under `.writing/`, and removal of files that dead processes left there.

A lock is an flock on `<path>.lock`. The kernel releases it when the process ends, so no lock is
ever stale. A path in `.writing/` without a held lock was left by a dead process. Some shared
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

# Errors of file systems without flock: there we write without locks and remove nothing.
NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)


@contextmanager
def hold_lock(temporary: Path) -> Iterator[None]:
    """Hold the lock of a path under `.writing/`; wait until it is free."""
    handle = _acquire(_lock_path(temporary), fcntl.LOCK_EX)
    try:
        yield
    finally:
        _release(_lock_path(temporary), handle)


@contextmanager
def maintenance_lock(store: Path) -> Iterator[None]:
    """Hold the lock for repair, prune, compact, copy or import; writers may still add parts.

    Raises `StoreError` if another process holds it.
    """
    path = _lock_path(store.parent / WRITING / f"{store.name}.maintenance")
    try:
        handle = _acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            f"{store}: another `rellm cache` command is working on this store; run this one "
            "again when it is done"
        ) from error
    try:
        yield
    finally:
        _release(path, handle)


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
        handle = os.open(_lock_path(temporary), os.O_RDWR)
    except FileNotFoundError:  # a lock is created first and removed last
        remove_path(temporary)
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_path(temporary)
        _lock_path(temporary).unlink(missing_ok=True)
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


def _lock_path(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def _acquire(path: Path, how: int) -> int:
    """Open and lock a file; try again if its last holder removed it in between."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    while True:
        # exist_ok would raise if another process removes the folder at that moment.
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed between the two lines
            continue
        try:
            fcntl.flock(handle, how)
            if os.fstat(handle).st_nlink:
                return handle
        except OSError as error:
            if error.errno in NO_LOCKS:
                return handle
            os.close(handle)
            raise
        os.close(handle)


def _release(path: Path, handle: int) -> None:
    try:
        path.unlink(missing_ok=True)  # before unlocking, so that a waiting process sees it
    finally:
        os.close(handle)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # fails while other locks exist
