"""What an error says about the bytes of a file, and the way out that its message names."""

import errno
import os
from pathlib import Path

import pytest

from rellm_cache.store.errors import UnreadableError, raise_if_unreadable


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.EACCES, "mend its permissions or the disk"),
        (errno.EIO, "mend its permissions or the disk"),
        (errno.EMFILE, "allow more open files"),
        (errno.ENOMEM, "free some memory"),
    ],
)
def test_a_file_that_cannot_be_read_now_is_no_damage(number: int, way: str) -> None:
    error = OSError(number, os.strerror(number), "part/ids/c/0")
    message = rf"^part/ids/c/0: cannot be read \({os.strerror(number)}\), which is no damage; {way}"
    with pytest.raises(UnreadableError, match=message):
        raise_if_unreadable(error, Path("part"))


def test_a_lack_of_memory_stays_what_it_is() -> None:
    with pytest.raises(MemoryError):
        raise_if_unreadable(MemoryError(), Path("part"))


@pytest.mark.parametrize("error", [FileNotFoundError(), ValueError("cut short"), KeyError("ids")])
def test_what_says_something_about_the_bytes_is_for_the_caller(error: Exception) -> None:
    raise_if_unreadable(error, Path("part"))
