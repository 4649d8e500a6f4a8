"""File locks of live processes, and who holds them.

A lock is an flock on a file of its own. The kernel releases it when the process ends, so no lock is
ever stale. Two commands never write one output at once: the second one ends with an error.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.errors import RellmError
from rellm_cache.utils.sync import make_folder

# Errors of file systems without flock: there we write without locks and remove nothing.
NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS)
LOCK = ".lock"  # end of the name of every lock file
PATIENCE_SECONDS = 10.0  # for a process that holds a shared lock alone, to end
POLL_SECONDS = 0.05
ATTEMPTS = 1000  # to open a file whose folder others remove at the same time


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a path in a folder of temporary files; wait until it is free."""
    handle, _ = acquire_lock(lock_path(path), fcntl.LOCK_EX)
    try:
        yield
    finally:
        release_lock(lock_path(path), handle)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that a command writes; a new folder that stays empty is removed.

    Raises `RellmError` if a live process holds it.
    """
    created = not folder.exists()
    make_folder(folder)
    try:
        with _held(folder / LOCK, folder):
            yield
    finally:
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextmanager
def hold_file(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, or of a folder that is replaced as a whole; it lies beside it.

    Yields whether the file system has locks. Raises `RellmError` if a live process holds it.
    """
    with _held(_lock_of(path), path) as held:
        yield held.locked


@contextmanager
def share_file(path: Path, lock: Path | None = None) -> Iterator[Callable[[], bool]]:
    """Share the lock of a file with other processes that make parts of it.

    Yields a function that takes the lock alone until the end of the block, and returns whether it
    could. Where it returns False, others share the lock, and this process makes no further part.
    Where the file system has no locks, it returns True. Raises `RellmError` if a live process holds
    the lock alone for longer than `PATIENCE_SECONDS`.

    Args:
        lock: the lock file; None for the one of `hold_file`.
    """
    with _held(lock or _lock_of(path), path, fcntl.LOCK_SH) as held:
        yield held.take


@dataclass
class _Held:
    """A lock that this process holds, alone or with others."""

    handle: int
    locked: bool  # whether the file system has locks
    alone: bool

    def take(self) -> bool:
        """Hold the lock alone if no other process shares it. Otherwise it may be lost."""
        if self.locked and not self.alone:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.alone = True
        return self.alone or not self.locked


@contextmanager
def _held(lock: Path, out: Path, how: int = fcntl.LOCK_EX) -> Iterator[_Held]:
    handle, locked = _acquire_or_refuse(lock, out, how)
    held = _Held(handle, locked, how == fcntl.LOCK_EX)
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(handle, 0)
            holder = f"process {os.getpid()} on {os.uname().nodename}, since {since},"
            os.pwrite(handle, holder.encode(), 0)
        yield held
    finally:
        if held.take():
            lock.unlink(missing_ok=True)  # before unlocking, so that a waiting process sees it
        os.close(handle)


def _acquire_or_refuse(lock: Path, out: Path, how: int) -> tuple[int, bool]:
    """As `acquire_lock`, with an error that names the process that holds the lock.

    Who shares it waits for a moment: another process may be about to end and hold it alone.
    """
    until = time.monotonic() + (PATIENCE_SECONDS if how == fcntl.LOCK_SH else 0.0)
    while True:
        try:
            return acquire_lock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise RellmError(
                    f"{out}: {_holder(lock)} is writing it; wait until it has ended, or choose "
                    "another output"
                ) from error
        time.sleep(POLL_SECONDS)


def _lock_of(path: Path) -> Path:
    """The lock file beside a file that a command writes; its folder is made."""
    make_folder(path.absolute().parent)
    return path.absolute().with_name(f".{path.name}{LOCK}")


def _holder(lock: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return lock.read_text("utf-8")[:200] or "another process"
    return "another process"


def lock_path(path: Path) -> Path:
    """The lock file beside a path."""
    return path.with_name(f"{path.name}{LOCK}")


def acquire_lock(path: Path, how: int) -> tuple[int, bool]:
    """Open and lock a file; try again if its last holder removed it in between.

    Returns its handle, and whether the file system has locks. Raises `BlockingIOError` if another
    process holds it and `how` does not wait, `OSError` if there can be no such file.
    """
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    attempts = 0
    while True:
        # exist_ok would raise if another process removes the folder at that moment.
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed between the two lines, or no place for files, as /proc
            attempts += 1
            if attempts == ATTEMPTS:
                raise
            continue
        try:
            fcntl.flock(handle, how)
            if os.fstat(handle).st_nlink:
                return handle, True
        except OSError as error:
            if error.errno in NO_LOCKS:
                return handle, False
            os.close(handle)
            raise
        os.close(handle)


def release_lock(path: Path, handle: int) -> None:
    """Remove a lock file, unlock it, and remove its folder if it is empty."""
    try:
        path.unlink(missing_ok=True)  # before unlocking, so that a waiting process sees it
    finally:
        os.close(handle)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # fails while other locks exist
