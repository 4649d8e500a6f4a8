"""Checksums of the results in a folder: recorded when they are written, compared when read.

`results.sha256` lists results that a command may make again; `SHA256SUMS` lists the files of a
folder that never changes, as a checkpoint or a publication. `sha256sum -c` reads both. Folders of
older versions have no list: a file without a line is not compared.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rellm_cache.errors import RunError
from rellm_cache.utils.atomic_files import update_text
from rellm_cache.utils.json_files import read_utf8
from rellm_cache.utils.regular_files import file_digest, why_unreadable

RESULTS, SUMS = "results.sha256", "SHA256SUMS"
# A name is of a file in the folder: no absolute path, no `..`, no NUL character.
LINE = re.compile(r"([0-9a-f]{64})  (?!/|(?:.*/)?\.\.(?:/|$))([^\s\0][^\0]*)")


def read_sums(path: Path) -> dict[str, str]:
    """File name → SHA-256 (hex); `RunError` if the list cannot be read, or is empty."""
    lines = read_utf8(path, RunError, _remedy(path)).splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        found = next((x for x, m in zip(lines, matches, strict=True) if not m), "")
        raise RunError(
            f"{path}: found {found[:80]!r}, expected lines of 64 hex digits, two spaces and a file "
            f"name; {_remedy(path)}"
        )
    return {match[2]: match[1] for match in matches if match}


def _remedy(path: Path) -> str:
    if path.name == SUMS:
        return "get the folder again from where it came"
    return "`rellm check FOLDER --accept` writes it again from the files that are there"


def sums_text(digests: Mapping[str, str]) -> str:
    """Content of a list of checksums, sorted by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def find_damage(folder: Path, listed: str = SUMS) -> dict[str, str]:
    """File name → what is wrong with it, for all lines of a folder's list of checksums.

    Raises `RunError` if the list itself cannot be read.
    """
    problems = {name: _problem(folder / name, d) for name, d in read_sums(folder / listed).items()}
    return {name: f"{text} {listed} says" for name, text in problems.items() if text}


def _problem(path: Path, digest: str) -> str:
    try:
        return "" if file_digest(path) == digest else "found other bytes than"
    except FileNotFoundError:
        return "is missing, and is not what"
    except OSError as error:
        return f"{why_unreadable(error, path)}, and is not what"


def is_intact(path: Path) -> bool:
    """Whether a file is there and has the bytes that its folder's list says, if it has a line."""
    return path.is_file() and _differing_list(path) is None


def require_intact(path: Path, fix: str) -> None:
    """Raise `RunError`, which ends with `fix`, if a file has other bytes than its folder says."""
    if path.is_file() and (listed := _differing_list(path)) is not None:
        raise RunError(
            f"{path}: found other bytes than {listed.name} says, so it is damaged or was changed; "
            f"{fix}" + (f". If you changed it yourself: `rellm check {path.parent} --accept`"
                        if listed.name == RESULTS else "")
        )  # fmt: skip


def _differing_list(path: Path) -> Path | None:
    """The list of checksums that a file differs from; None if there is no such list."""
    for file in {path, path.resolve()}:  # a run may have links to the files of another
        for listed in (file.with_name(RESULTS), file.with_name(SUMS)):
            if listed.is_file():
                digest = read_sums(listed).get(file.name)
                if digest is not None and digest != file_digest(file):
                    return listed
    return None


def record(folder: Path, names: Iterable[str]) -> None:
    """Record the checksums of files that are in a folder now; lines of others stay."""
    path = folder / RESULTS
    known = read_sums(path) if path.is_file() else {}
    found = {name: file_digest(folder / name) for name in names if (folder / name).is_file()}
    update_text(path, sums_text(known | found))


@contextmanager
def recorded(folder: Path, *names: str) -> Iterator[None]:
    """Record the checksums of the files that the block writes, however it ends.

    After a kill in the block they have no lines, so that no good file counts as damaged. A file
    that the block leaves as it is keeps its line: damage is never recorded as right.
    """
    path = folder / RESULTS
    known = read_sums(path) if path.is_file() else {}
    before = {name: _state(folder / name) for name in names}
    if others := {name: digest for name, digest in known.items() if name not in before}:
        update_text(path, sums_text(others))
    else:
        path.unlink(missing_ok=True)
    try:
        yield
    finally:
        others = read_sums(path) if path.is_file() else {}  # the block may have recorded others
        for name, state in before.items():
            now = _state(folder / name)
            if now is not None:
                same = now == state and name in known
                others[name] = known[name] if same else file_digest(folder / name)
        if others:
            update_text(path, sums_text(others))


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is replaced; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
