"""Atomic, durable writes of files and folders.

Content is written under a temporary name in the target's folder, synced to the disk and renamed;
then that folder is synced. A kill or a power cut leaves the old content or the new one.
"""

import csv
import errno
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rellm_cache.errors import RellmError
from rellm_cache.utils.csv_cells import neutralize
from rellm_cache.utils.disk_errors import disk_errors
from rellm_cache.utils.litter import is_litter
from rellm_cache.utils.locks import LOCK, hold_file
from rellm_cache.utils.regular_files import read_regular
from rellm_cache.utils.sync import make_folder, sync_path

SUFFIX = ".partial"  # of every temporary name; the name starts with a dot
SYNC_THREADS = 8  # a file system joins concurrent syncs into one write of its journal
LEFTOVER_SECONDS = 86_400  # a temporary file unchanged for so long has no running writer
SPARE_BYTES = 64_000_000  # for tokenizer, configuration and the file system itself


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes to a temporary path.

    If two processes write one file at once, the last one to finish wins. Missing folders are made.
    After an error the old file stays, and the temporary one is removed. Raises `RellmError` if the
    disk is full or the folder cannot be written.
    """
    kept = "the file that was there is kept" if path.exists() else "complete files are kept"
    with disk_errors(path, kept):
        make_folder(path.parent)
        _remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
        try:
            write(temporary)
            sync_path(temporary)
            rename(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 text file."""
    write_file(path, lambda temporary: temporary.write_text(text, "utf-8"))


def update_text(path: Path, text: str) -> bool:
    """Replace a text file unless it already holds this text; return whether it was replaced."""
    if path.is_file() and read_regular(path) == text.encode():
        return False
    write_text(path, text)
    return True


def write_json(path: Path, document: Mapping[str, Any], ensure_ascii: bool = True) -> None:
    """Replace a JSON file by one indented object."""
    write_text(path, json.dumps(document, ensure_ascii=ensure_ascii, indent=2) + "\n")


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a JSON Lines file, row by row."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    write_file(path, write)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Replace a CSV file."""
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return the text of a CSV file, its header first; cells are as `csv_cells.neutralize`."""
    lines: list[str] = []
    # A writer quotes what its line end contains, so that a lone "\r" in a cell is read back.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    for row in (columns, *rows):
        writer.writerow(map(neutralize, row))
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def is_temporary(path: Path) -> bool:
    """Whether a path is named like a temporary file of this module, or like a lock."""
    return path.name.startswith(".") and path.name.endswith((SUFFIX, LOCK))


@contextmanager
def new_folder(out: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` when the block ends without an error.

    Raises `RellmError` if `out` is not empty, another process is writing it, the disk has too
    little space, or writing failed.
    """
    if out.exists() and (not out.is_dir() or not all(map(is_litter, out.iterdir()))):
        raise RellmError(f"{out}: is there already; choose another --out, or remove it first")
    with replaced_folder(out, needed_bytes) as temporary:
        yield temporary


@contextmanager
def replaced_folder(out: Path, needed_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary folder that replaces `out`, if it exists, when the block ends.

    At any moment the complete old or new folder is on the disk. Between the two renames it is the
    old one, as `.<name>.replaced`; the next call moves it back first. Raises `RellmError` if
    another process is writing it, the disk has too little space, or writing failed.
    """
    parent = out.absolute().parent
    temporary = parent / f".{out.name}.{secrets.token_hex(4)}{SUFFIX}"
    kept = "the folder that was there is kept" if out.exists() else "nothing is left there"
    with disk_errors(out, kept), hold_file(out) as locked:
        if locked:
            _remove_dead(parent, out.name)
        try:
            _finish_replacement(out)
            _require_space(out, needed_bytes)
            temporary.mkdir()
            yield temporary
            replace_folder(temporary, out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def replace_folder(temporary: Path, out: Path) -> None:
    """Sync a finished folder and rename it to `out`; an old folder there is removed afterwards."""
    sync_tree(temporary)
    _finish_replacement(out)
    if out.exists():
        out.rename(_replaced(out))
    rename(temporary, out)
    _finish_replacement(out)


def rename(source: Path, target: Path) -> None:
    """Rename a synced file or folder and sync the folder that holds it now."""
    os.replace(source, target)
    sync_path(target.parent)


def rename_new(source: Path, target: Path) -> bool:
    """Rename a synced folder unless `target` exists already; return whether it was renamed."""
    try:
        rename(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def sync_tree(folder: Path) -> None:
    """Sync a folder and everything below it to the disk, in any order.

    Nobody reads the folder before it is renamed.
    """
    paths = [Path(root) / name for root, _, files in os.walk(folder) for name in ("", *files)]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(sync_path, paths))


def _remove_leftovers(path: Path) -> None:
    """Remove old temporary files that killed writers of this file left."""
    prefix, now = f".{path.name}.", time.time()
    for entry in os.scandir(path.parent):
        if entry.name.startswith(prefix) and entry.name.endswith(SUFFIX) and entry.is_file():
            with suppress(OSError):  # another process removed it
                if now - entry.stat().st_mtime > LEFTOVER_SECONDS:
                    os.unlink(entry.path)


def _remove_dead(parent: Path, name: str) -> None:
    """Remove temporary folders that killed writers of a folder left; the caller holds its lock."""
    token = "[0-9a-f]" * 8
    for middle in ("", f".{token}"):  # older versions wrote without a token
        for left in parent.glob(f".{glob.escape(name)}{middle}{SUFFIX}"):
            if left.is_dir():  # files belong to `write_file`
                shutil.rmtree(left)


def _replaced(out: Path) -> Path:
    return out.absolute().parent / f".{out.name}.replaced"


def _finish_replacement(out: Path) -> None:
    """Remove the old folder, or move it back if there is no new one."""
    old = _replaced(out)
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(out)


def _require_space(out: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(out.absolute().parent).free
    if needed_bytes and free < needed_bytes + SPARE_BYTES:
        raise RellmError(
            f"{out}: {(needed_bytes + SPARE_BYTES) / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; "
            "free some space or choose another --out"
        )
