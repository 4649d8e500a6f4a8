"""What is wrong with a store's files, and the way out. In: a path, what was found. Out: errors."""

import errno
from pathlib import Path

from rellm_cache.errors import RellmError, StoreError
from rellm_cache.store.remote.mirror_paths import display_path, origin_url

# Only these say that a file is not there; whatever else goes wrong says nothing about its bytes.
MISSING_FILE_ERRORS = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class UnreadableError(RellmError):
    """A file may be whole and cannot be read now: no reason to drop anything.

    It is no `StoreError`, so that nothing that looks for damage takes it for some.
    """


def raise_if_unreadable(error: Exception, path: Path) -> None:
    """Raise unless an error says something about the bytes of the file that it is about.

    Args:
        path: of the file, where the error names none.

    Raises:
        UnreadableError: the file is there and cannot be read now.
        MemoryError: there was no memory to read it.
    """
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, OSError) and not isinstance(error, MISSING_FILE_ERRORS):
        raise unreadable_error(path, error) from error


def damage_error(part: Path, what: str) -> StoreError:
    """The error for a part whose bytes are not what was written; it names the way out."""
    if not part.exists():
        return removed_error(part)
    root = part.parent.parent
    if (url := origin_url(root)) is not None:
        return StoreError(
            f"{display_path(part)}: damaged: {what}; `rellm cache verify {url}` tells whether it "
            f"is so there: then `rellm cache repair {url}` keeps what is whole and lists the clips "
            f"to extract again; else remove the local copy {part}"
        )
    return StoreError(
        f"{part}: damaged: {what}; `rellm cache repair {part.parent.parent}` keeps what is whole "
        "and lists the clips to extract again"
    )


def removed_error(part: Path) -> StoreError:
    """The error for a part that is not there any more."""
    return StoreError(
        f"{display_path(part)}: this part was removed while the store was open, by `rellm cache` "
        "or by hand; run the same command again"
    )


def quantization_mismatch(part: Path, first: Path) -> str:
    """What is wrong with a part of an int8 store whose steps are not those of the first part."""
    return (
        f"{part}: its int8 steps differ from those of {first.name}: parts of different stores were "
        "mixed; move it out of the store and run `rellm cache quantize` again"
    )


def unreadable_error(path: Path, error: OSError) -> UnreadableError:
    """The error for a file that is there and cannot be read, by lost permission or a bad disk.

    Args:
        path: of the file, where the error names none.
    """
    way = "mend its permissions or the disk"
    if error.errno == errno.ENOMEM:
        way = "free some memory"
    if error.errno == errno.EMFILE:
        way = "allow more open files (`ulimit -n`), one for each shard of 64 MB that is read"
    return UnreadableError(
        f"{error.filename or path}: cannot be read ({error.strerror or error}), which is no "
        f"damage; {way} and run the same command again"
    )
