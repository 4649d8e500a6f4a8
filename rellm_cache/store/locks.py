"""Who is at work in a cache. In: a path under `.writing/`. Out: a lock that ends with its process.

A lock is an flock on `<path>.lock`: the kernel lets it go when the process ends, however it ends,
so a lock is never stale and no clock is asked. Whatever lies in `.writing/` without a held lock
was left by a process that is gone. On some shared file systems a lock is known on its own machine
alone; so the names of large things tell whose they are (`with_hostname`).
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

# File systems that know no flock; writing goes on there, cleaning up does not.
NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)


@contextmanager
def hold_lock(temporary: Path) -> Iterator[None]:
    """Hold the lock of something being written under `.writing/`, which is made if it is absent.

    The folder `.writing/` goes again with the last lock in it.
    """
    handle = _acquire(_lock_path(temporary), fcntl.LOCK_EX)
    try:
        yield
    finally:
        _release(_lock_path(temporary), handle)


@contextmanager
def maintenance_lock(store: Path) -> Iterator[None]:
    """Hold a store that is repaired, pruned, compacted, copied or imported to.

    Writers may add parts meanwhile.

    Raises:
        StoreError: another process maintains this store.
    """
    path = _lock_path(store.parent / WRITING / f"{store.name}.maintenance")
    try:
        handle = _acquire(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreError(
            f"{store}: another `rellm cache` command is at work in this store; run this one again "
            "when it is done"
        ) from error
    try:
        yield
    finally:
        _release(path, handle)


def remove_stale(cache: Path) -> tuple[list[Path], list[Path]]:
    """Remove what dead processes left in `.writing/`.

    Returns:
        What was removed, and what a live process holds; that too where the file system has no
        locks, so that nobody can tell.
    """
    removed: list[Path] = []
    held: list[Path] = []
    for path in _entries(cache):
        (removed if _remove_unless_locked(path) else held).append(path)
    with contextlib.suppress(OSError):
        (cache / WRITING).rmdir()
    return removed, held


def with_hostname(name: str) -> str:
    """A name under `.writing/` that says which machine it is written by."""
    return f"{name}@{os.uname().nodename}"


def remove_own_stale(cache: Path) -> None:
    """Remove what dead processes of this machine left in `.writing/` under an `with_hostname`.

    What cannot be removed now is left to `remove_stale`.
    """
    for path in _entries(cache):
        if path.name.endswith(with_hostname("")):
            with contextlib.suppress(OSError):
                _remove_unless_locked(path)
    with contextlib.suppress(OSError):
        (cache / WRITING).rmdir()


def _entries(cache: Path) -> list[Path]:
    """What lies under `.writing/`, or only its lock does, by name."""
    try:
        entries = list((cache / WRITING).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted({entry.with_name(entry.name.removesuffix(".lock")) for entry in entries})


def _remove_unless_locked(temporary: Path) -> bool:
    """Remove something under `.writing/`, unless a live process holds its lock."""
    try:
        handle = os.open(_lock_path(temporary), os.O_RDWR)
    except FileNotFoundError:  # a lock is made before what it guards, and goes after it
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
    """Remove in the end what has not been renamed away, while its lock is held."""
    try:
        yield
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_path(path: Path) -> None:
    """Remove a file or a folder that may be gone already."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock_path(temporary: Path) -> Path:
    return temporary.with_name(f"{temporary.name}.lock")


def _acquire(path: Path, how: int) -> int:
    """An open file that holds the lock. The file may be removed by its last holder meanwhile."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    while True:
        # Not exist_ok, which raises where another process removes the folder at that moment.
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder went between the two lines
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
        path.unlink(missing_ok=True)  # while held: whoever waits for this file sees that it is gone
    finally:
        os.close(handle)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # succeeds for the last one only
