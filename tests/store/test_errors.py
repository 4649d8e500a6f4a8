"""Errors of store files: which ones mean damage, and the fix that their message names."""

import errno
import os
from pathlib import Path

import pytest

from rellm_cache.errors import StoreError
from rellm_cache.store.errors import UnreadableError, damage_error, raise_if_unreadable


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EACCES, "correct its permissions or check the disk"),
        (errno.EIO, "correct its permissions or check the disk"),
        (errno.EMFILE, "allow more open files"),
        (errno.ENOMEM, "free some memory"),
    ],
)
def test_a_file_that_cannot_be_read_may_be_intact(number: int, fix: str) -> None:
    error = OSError(number, os.strerror(number), "part/ids/c/0")
    message = rf"^part/ids/c/0: cannot be read \({os.strerror(number)}\), but may be intact; {fix}"
    with pytest.raises(UnreadableError, match=message):
        raise_if_unreadable(error, Path("part"))


def test_a_memory_error_is_raised_unchanged() -> None:
    with pytest.raises(MemoryError):
        raise_if_unreadable(MemoryError(), Path("part"))


@pytest.mark.parametrize("error", [FileNotFoundError(), ValueError("cut short"), KeyError("ids")])
def test_an_error_about_the_content_is_left_to_the_caller(tmp_path: Path, error: Exception) -> None:
    """The check returns, so the caller reports the damage."""

    def read() -> None:
        try:
            raise error
        except Exception as caught:
            raise_if_unreadable(caught, tmp_path)
            raise damage_error(tmp_path, "cut short") from caught

    with pytest.raises(StoreError, match=r"damaged: cut short; `rellm cache repair"):
        read()
