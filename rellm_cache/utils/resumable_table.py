"""Resumable table of result rows, for commands that may be killed at any moment.

Each row has an id and the fingerprint of its inputs. New rows are appended to a journal
next to the finished file. A later call reads them back and makes only the missing ones. At the end
the file is replaced in one step and the journal removed. Each job of an array appends to a journal
of its own part; all of them are read.
"""

import errno
import glob
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Self

from rellm_cache.errors import JournalError
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.checksums import require_intact
from rellm_cache.utils.console import progress
from rellm_cache.utils.disk_errors import disk_errors
from rellm_cache.utils.json_files import parse_object
from rellm_cache.utils.regular_files import read_regular, why_unreadable
from rellm_cache.utils.sync import make_folder, sync_path

Row = dict[str, Any]

FINGERPRINT = "fingerprint"
# Names of the fingerprint in files of the first edition, which are still read.
FORMER_NAMES = ("made_from", "by", "generator", "writer", "identity", "audio_sha256")
PART = ".part-"  # before the name of a part, in the name of its journal
KEPT = "the rows before are kept"
SYNC_SECONDS = 1.0  # a power cut may lose rows of the last second; a kill loses none


class ResultTable:
    """Rows by id, from a finished file and its journal.

    A row counts only with the expected fingerprint. Rows of one id are merged, so that results may
    come a few fields at a time. Raises `JournalError` if a line of the file or its journal cannot
    be read, and `RunError` if the file differs from the checksum in its folder.

    Args:
        path: the finished file; it need not exist.
        fingerprints: id → expected fingerprint, or one for all ids; None accepts every row.
        finished: rows that are known; None reads them from the finished file.
        part: name of the part that this process makes; "" if it makes all rows.

    Example:
        >>> table = ResultTable(Path("answers.jsonl"), {"a": "f1", "b": "f2"})  # doctest: +SKIP
        >>> with table:  # doctest: +SKIP
        ...     for name in table.missing(["a", "b"], "response"):
        ...         table.add(name, response=answer(name))
        >>> table.finish()  # doctest: +SKIP
    """

    def __init__(
        self,
        path: Path,
        fingerprints: str | Mapping[str, str] | None = None,
        finished: Iterable[Row] | None = None,
        part: str = "",
    ) -> None:
        self.path = path
        self.journal = journal_beside(path, part)
        self._fingerprints = fingerprints
        require_intact(path, "remove it, and its results are made again")
        self._before = list(_current(read_rows(path) if finished is None else finished))
        self._rows: dict[str, Row] = {}
        self._appending: Journal | None = None
        self._is_part = bool(part)
        self._add_known(self._before)
        self._read_journals()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._appending is not None:
            self._appending.close()
            self._appending = None

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        """Return the row of an id; empty if there is none."""
        return self._rows.get(name, {})

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of all rows, oldest first."""
        return iter(self._rows)

    @property
    def has_journal(self) -> bool:
        """Whether there is a journal that `finish` would remove."""
        return bool(self._own_journals())

    def join(self) -> None:
        """Add what other parts have appended, and make this the table of the whole file."""
        self._is_part = False
        self._read_journals()

    def missing(self, ids: Iterable[str], *fields: str) -> list[str]:
        """Return the ids, each once, without a row or without one of the fields."""
        return [i for i in dict.fromkeys(ids) if not {"id", *fields} <= self[i].keys()]

    def add(self, name: str, fingerprint: str | None = None, **fields: Any) -> None:
        """Add fields to the row of an id and append them to the journal.

        Args:
            fingerprint: needed only if the table expects none.
            fields: values that JSON returns unchanged.
        """
        own = self[name].get(FINGERPRINT) or self._expected(name)
        row = {"id": name, FINGERPRINT: fingerprint or own, **fields}
        if self._appending is None:
            self._appending = Journal(self.journal)
        self._appending.append(row)
        self._merge(row)

    def fill(
        self, title: str, total: int, unit: str, results: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Add results, each an id and its fields, as they arrive, and show the progress."""
        with progress(title, total, unit) as tick, self, _closed(results):
            for name, fields in results:
                self.add(name, **fields)
                tick()

    def finish(
        self,
        rows: Iterable[Any] | None = None,
        write: Callable[[Path, list[Any]], object] | None = None,
    ) -> bool:
        """Replace the finished file, unless it already holds these rows, and remove the journals.

        A table of a part removes only its own.

        Args:
            rows: rows of the file; None for the rows of the table, in the order of `fingerprints`.
            write: function that writes the file; None for JSON Lines.

        Returns:
            Whether the file was written.
        """
        self.__exit__()
        if rows is None and isinstance(self._fingerprints, Mapping):
            expected = self._fingerprints.items()
            rows = ({"id": name, FINGERPRINT: value, **self[name]} for name, value in expected)
        content = list(rows or ())
        changed = content != self._before
        if changed:
            (write or write_lines)(self.path, content)
        for journal in self._own_journals():
            journal.unlink(missing_ok=True)
        return changed

    def _own_journals(self) -> list[Path]:
        return [j for j in journals_of(self.path) if j == self.journal or not self._is_part]

    def _read_journals(self) -> None:
        for journal in journals_of(self.path):
            self._add_known(_current(read_journal(journal)))

    def _add_known(self, rows: Iterable[Row]) -> None:
        for row in rows:
            known = isinstance(row.get("id"), str) and FINGERPRINT in row
            if known and same_inputs(self._expected(row["id"]), row[FINGERPRINT]):
                self._merge(row)

    def _expected(self, name: str) -> str | None:
        known = self._fingerprints
        return known.get(name, "") if isinstance(known, Mapping) else known

    def _merge(self, row: Row) -> None:
        kept = self._rows.setdefault(row["id"], {})
        if kept.get(FINGERPRINT) != row[FINGERPRINT]:
            kept.clear()
        kept.update(row)


class Journal:
    """JSON Lines file to append rows to; a killed process loses no appended row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(path, KEPT):
            make_folder(path.parent)
            if path.exists():
                # A truncated last line is removed, so that appending starts on a new line.
                os.truncate(path, len(_whole_lines(path)))
            self._file = path.open("ab", buffering=0)
            sync_path(path.parent)
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: Row) -> None:
        """Write one row. The file is synced to the disk once a second, and when it is closed."""
        with disk_errors(self._path, KEPT):
            _append(self._file, row)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        """Sync the file to the disk and close it."""
        with disk_errors(self._path, KEPT), self._file:
            os.fsync(self._file.fileno())


def append_row(path: Path, row: Row) -> None:
    """Append one row to a log that the caller syncs to the disk."""
    with disk_errors(path, KEPT), path.open("ab", buffering=0) as file:
        _append(file, row)


def _append(file: FileIO, row: Row) -> None:
    """Append a row; on a full disk nothing of it stays, so that the next one is a whole line."""
    end = file.seek(0, os.SEEK_END)
    data = (json.dumps(row, ensure_ascii=False) + "\n").encode()
    written = file.write(data)
    if written != len(data):
        os.truncate(file.fileno(), end)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def journal_beside(path: Path, part: str = "") -> Path:
    """Return the path of a file's journal, or of the journal of a part of it."""
    return path.with_name(f".{path.name}{f'{PART}{part}' if part else ''}.journal")


def journals_of(path: Path) -> list[Path]:
    """List the journals of a file and of its parts that exist."""
    parts = sorted(path.parent.glob(f".{glob.escape(path.name)}{PART}*.journal"))
    return [journal for journal in (journal_beside(path), *parts) if journal.exists()]


@contextmanager
def _closed(results: Iterable[Any]) -> Iterator[None]:
    """Close a generator at the end, so that what it holds, as workers, ends after an error too."""
    try:
        yield
    finally:
        if isinstance(results, Generator):
            results.close()


def read_journal(path: Path) -> Iterator[Row]:
    """Yield the rows of a journal, which may not exist; a truncated last line is skipped.

    Raises `JournalError` if another line is damaged.
    """
    if path.exists():
        yield from _parse(path, _whole_lines(path))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a finished file, which may not exist.

    Raises `JournalError` if a line is damaged, the last one too.
    """
    if path.exists():
        yield from _parse(path, _read(path))


def fingerprint_of(row: Mapping[str, Any]) -> str | None:
    """Return the fingerprint of a row, also of a row of the first edition; None without one."""
    return with_fingerprint(dict(row)).get(FINGERPRINT)


def same_inputs(expected: str | None, found: str) -> bool:
    """Whether a row's fingerprint is the expected one; None expects nothing.

    After a "+", a fingerprint may have a second digest, of files that older versions did not
    digest. It is compared only if both have one.
    """
    if expected is None:
        return True
    (one, _, more), (other, _, others) = expected.partition("+"), str(found).partition("+")
    return one == other and (more == others or not more or not others)


def with_fingerprint(row: Row) -> Row:
    """Return a row with its fingerprint under its current name, also for the first edition."""
    former = next((name for name in FORMER_NAMES if name in row), None)
    if FINGERPRINT in row or former is None:
        return row
    return {FINGERPRINT if name == former else name: value for name, value in row.items()}


def _current(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows with current names; they may be from journals of the first edition."""
    counts: Counter[str] = Counter()
    for row in map(with_fingerprint, rows):
        if "id" in row or FINGERPRINT not in row:
            yield row
        elif "prompt" in row or "transcript" in row:  # row of `respond` or `qa`
            yield {"id": row.get("prompt", row.get("transcript")), **row}
        elif "score" in row:  # row of `empathy score`: in the order of the table
            yield {"id": str(counts[row[FINGERPRINT]]), **row}
            counts[row[FINGERPRINT]] += 1
        else:  # row of `judge`: a few answers or scores by id
            for name in {"answers", "scores"} & row.keys():
                for key, value in row[name].items():
                    yield {"id": key, FINGERPRINT: row[FINGERPRINT], name[:-1]: value}


def _parse(path: Path, data: bytes) -> Iterator[Row]:
    lines = data.split(b"\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        # A power cut can leave garbage bytes.
        fix = "remove this line, and its result is made again"
        yield parse_object(line, f"{path}:{number}", JournalError, fix)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise JournalError(f"{path}: {why_unreadable(error, path)}; move it away") from error


def _whole_lines(path: Path) -> bytes:
    """Return the file up to its last line end; a truncated line may not be valid UTF-8."""
    data = _read(path)
    return data[: data.rfind(b"\n") + 1]
