"""Journals: rows of unfinished work. In: a row at a time. Out: the same rows after a kill."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rellm_cache.errors import JournalError


def journal_beside(path: Path) -> Path:
    """Where the rows of a file wait until they are all there and the file is written.

    Nothing else has this name: whoever writes the file in one step uses `.<name>.partial`.
    """
    return path.with_name(f".{path.name}.journal")


class Journal:
    """Appends JSON rows to a file, each on disk's side of the process before the next begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            # A line that a kill cut short goes, so that appending starts on a new one.
            os.truncate(path, len(_whole_lines(path)))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, row: dict[str, Any]) -> None:
        """Write one row."""
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one row to a log; it is on the disk when the file is synced next."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a journal that may not exist; a last line cut short by a kill is left out.

    Raises:
        JournalError: another line is damaged.
    """
    if path.exists():
        for number, line in enumerate(_whole_lines(path).split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"it is of type {type(row).__name__}")
            except ValueError as error:  # a power cut leaves bytes that nobody wrote
                raise JournalError(
                    f"{path}:{number}: found {line[:40]!r}, expected a JSON object ({error}); "
                    "remove this line, and what it said is done again"
                ) from error
            yield row


def _whole_lines(path: Path) -> bytes:
    """The file up to its last end of line; what a kill cut may be no UTF-8."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]
