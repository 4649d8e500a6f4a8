"""Errors of a disk that is full or cannot be written, with the file and what is kept.

Libraries raise them under many types, often without the name of the file.
"""

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
