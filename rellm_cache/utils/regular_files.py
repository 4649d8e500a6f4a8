"""Regular files: reading of whole files, where pipes, devices, folders and link loops are refused.

A pipe would wait for a writer and a device may never end, so both are refused unread.
"""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

from rellm_cache.errors import RellmError

LARGEST_TEXT = 4_000_000_000  # bytes of a file that is read whole; a million rows take 265 MB


class NotRegularError(OSError):
    """A path is no regular file: its content is not what a reader expects."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises `NotRegularError` if the path is something else, or a loop of links; other `OSError`s as
    `open`; `ValueError` if it holds a NUL character.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_regular(path, "a loop of links") from error
        if error.errno == errno.ENXIO:
            raise _not_regular(path, "a socket or device") from error
        raise
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise _not_regular(path, _kind(mode))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """All bytes of a regular file of at most `largest` bytes; errors as `open_regular`."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > largest:
            raise NotRegularError(
                errno.EFBIG, f"found {size} bytes, expected {largest} at most", str(path)
            )
        return file.read()


def require_regular(path: Path, error: type[RellmError], fix: str) -> None:
    """Raise `error`, which ends with `fix`, unless a path is a regular file that can be opened.

    For libraries that open files themselves.
    """
    try:
        open_regular(path).close()
    except (OSError, ValueError) as found:
        raise error(f"{path}: {why_unreadable(found, path)}; {fix}") from found


def why_unreadable(error: Exception, path: Path) -> str:
    """Why a file cannot be read, without its name: what was found, and what is expected."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return f"found a link to {os.readlink(path)!r}, which does not exist"
        return "no such file"
    if isinstance(error, NotRegularError):
        return str(error.strerror)
    reason = getattr(error, "strerror", None) or error
    return f"cannot be read ({reason})"


def what_is_there(path: Path) -> str:
    """What stands at a path that is no regular file: empty for a regular file, and for nothing."""
    try:
        open_regular(path).close()
    except NotRegularError as error:
        return str(error.strerror)
    except FileNotFoundError as error:
        return why_unreadable(error, path) if path.is_symlink() else ""
    except (OSError, ValueError):
        return ""
    return ""


def file_exists(path: str | Path) -> bool:
    """Whether a path that a file or recipe names is a file; False if no file can have this name.

    `Path.is_file` raises an error for a name that is too long.
    """
    return os.path.isfile(path)


def folder_exists(path: str | Path) -> bool:
    """Whether a path that a file or recipe names is a folder; as `file_exists`."""
    return os.path.isdir(path)


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a regular file; errors as `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_regular(path: Path, found: str) -> NotRegularError:
    return NotRegularError(errno.EINVAL, f"found {found}, expected a regular file", str(path))


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"
