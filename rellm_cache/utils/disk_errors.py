"""Errors of a disk that is full or cannot be written, with the file and what is kept.

Libraries raise them under many types, often without the name of the file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rellm_cache.errors import RellmError

DISK_ERRORS = (OSError, SafetensorError)


@contextmanager
def disk_errors(path: Path, kept: str = "complete files are kept") -> Iterator[None]:
    """Convert an error of writing below `path` to a `RellmError` that says what is `kept`."""
    try:
        yield
    except DISK_ERRORS as error:
        raise RellmError(
            f"{path}: could not be written ({disk_reason(error)}); free some space or check the "
            f"folder, and run the same command again; {kept}"
        ) from error


def disk_reason(error: Exception) -> str:
    """The text of an error; of an error that lists the files of a folder, the first one."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        return str(error.args[0][0][-1])
    return str(error)


def os_error_text(error: OSError) -> str:
    """The message of an `OSError` that no function explained: file, reason and fix."""
    if error.filename is None or error.strerror is None:
        return disk_reason(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return f"{name}: {error.strerror}; check the path, and that it can be read or written"
