"""Errors for damaged, removed and unreadable store files; each message names the repair."""

import errno
from pathlib import Path

from rellm_cache.errors import RellmError, StoreError
from rellm_cache.store.remote.mirror_paths import display_path, origin_url
from rellm_cache.utils.regular_files import NotRegularError

# The OSErrors that mean a missing file, or something else in its place; others say nothing about
# its content.
MISSING_FILE_ERRORS = (
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    NotRegularError,
)


class UnreadableError(RellmError):
    """A file exists but cannot be read, so nothing is known about its content.

    This is not a `StoreError`: code that handles damage must not handle it.
    """


def raise_if_unreadable(error: Exception, path: Path) -> None:
    """Raise `UnreadableError` if `error` only prevented reading; return if it means damage.

    `path` is the file to name if the error names none. A `MemoryError` is raised again.
    """
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, OSError) and not isinstance(error, MISSING_FILE_ERRORS):
        raise unreadable_error(path, error) from error


def damage_error(part: Path, what: str) -> StoreError:
    """Return the error for a damaged part; its message names the repair."""
    if not part.exists():
        return removed_error(part)
    root = part.parent.parent
    if (url := origin_url(root)) is not None:
        return StoreError(
            f"{display_path(part)}: damaged: {what}; run `rellm cache verify {url}`: if the part "
            f"is damaged there too, `rellm cache repair {url}` keeps what is intact and lists the "
            f"clips to extract again; if not, remove the local copy {part}"
        )
    return StoreError(
        f"{part}: damaged: {what}; `rellm cache repair {root}` keeps what is intact and lists the "
        "clips to extract again"
    )


def removed_error(part: Path) -> StoreError:
    """Return the error for a part that no longer exists."""
    return StoreError(
        f"{display_path(part)}: this part was removed while the store was open, by `rellm cache` "
        "or by hand; run the same command again"
    )


def quantization_mismatch(part: Path, first: Path) -> str:
    """Return the message that an int8 part's scale or mean differs from the first part's."""
    return (
        f"{part}: its int8 scale and mean differ from those of {first.name}: the parts belong to "
        "different stores; move it out of the store and run `rellm cache quantize` again"
    )


def unreadable_error(path: Path, error: OSError) -> UnreadableError:
    """Return the error for a file that exists but cannot be read: permission, disk or limits."""
    fix = "correct its permissions or check the disk"
    if error.errno == errno.ENOMEM:
        fix = "free some memory"
    if error.errno == errno.EMFILE:
        fix = "allow more open files (`ulimit -n`), one for each shard of 64 MB that is read"
    return UnreadableError(
        f"{error.filename or path}: cannot be read ({error.strerror or error}), but may be "
        f"intact; {fix} and run the same command again"
    )
