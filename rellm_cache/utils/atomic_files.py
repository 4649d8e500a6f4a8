"""Getting files onto the disk. In: paths. Out: the same, safe from a power cut."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

THREADS = 8  # a file system joins what is synced at the same time into one write of its journal


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below and including `folder`, in no order.

    Nobody sees the folder before it is renamed, so there is no need to have files first.
    """
    paths = [Path(root) / name for root, _, files in os.walk(folder) for name in ("", *files)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(sync_path, paths))


def sync_path(path: Path) -> None:
    """fsync one file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a kill leaves the old one or the new one, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, "utf-8")
    sync_path(partial)
    partial.replace(path)
    sync_path(path.parent)


def renew(path: Path, text: str) -> bool:
    """Write a text file as `write_whole` does unless it holds just that; whether it was written."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    write_whole(path, text)
    return True


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file as `write_whole` does."""
    write_whole(path, table_text(columns, rows))


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The text of a CSV file, the names of its columns first."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return table.getvalue()
