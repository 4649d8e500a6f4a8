"""Rows by worker processes: all of them once, also when workers die or the caller stops."""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rellm_cache.errors import ManifestError, RellmError, WorkersError
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.rows import MakeRows, Rows, RowTask, rows_by_workers

TWO = WorkerOptions(workers=2)


@dataclass(frozen=True)
class Shout(RowTask):
    """Makes upper-case letters; `deadly` kills the process, and once only if `died` is a path."""

    deadly: str = ""
    died: Path | None = None
    refused: str = ""

    def load(self, note: Callable[[str], None]) -> MakeRows:
        def shout(letters: Sequence[str]) -> Rows:
            for letter in letters:
                if letter == self.deadly and not (self.died and self.died.exists()):
                    if self.died is not None:
                        self.died.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                if letter == self.refused:
                    raise ManifestError(f"{letter}: cannot be shouted")
                yield letter, letter.upper()

        return shout


LETTERS = {letter: letter for letter in "abcdefghijklmnopqrst"}
LOUD = {letter: letter.upper() for letter in LETTERS}


def test_workers_import_the_module_of_their_task() -> None:
    assert Shout(batch_size=1).modules == [Shout.__module__]


def test_all_rows_are_made_once() -> None:
    rows = list(rows_by_workers(Shout(2), LETTERS, "letter", TWO))
    assert sorted(rows) == sorted(LOUD.items())
    assert multiprocessing.active_children() == []


def test_the_rows_of_a_killed_worker_are_kept_and_others_make_the_rest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = list(rows_by_workers(Shout(8, "f", tmp_path / "died"), LETTERS, "letter", TWO))
    assert sorted(rows) == sorted(LOUD.items())
    expected = r"worker \d died \(killed by SIGKILL\): what it had stored is kept, 3 letters are"
    assert re.search(expected, capfd.readouterr().err)


def test_a_row_that_kills_every_worker_is_named_after_the_others() -> None:
    found: list[str] = []
    options = WorkerOptions(workers=1)
    rows = rows_by_workers(Shout(4, "f"), LETTERS, "letter", options)
    with pytest.raises(WorkersError, match=r"letter 'f': 3 workers died at it, the last: killed"):
        found.extend(name for name, _ in rows)
    assert len(found) == len({*found})
    assert {*"abcdegh"} <= {*found}  # those of its batch
    assert multiprocessing.active_children() == []


def test_an_error_of_a_worker_is_raised_here() -> None:
    with pytest.raises(RellmError, match="g: cannot be shouted"):
        list(rows_by_workers(Shout(4, refused="g"), LETTERS, "letter", TWO))
    assert multiprocessing.active_children() == []


def test_a_caller_that_stops_ends_the_workers() -> None:
    rows = rows_by_workers(Shout(2), LETTERS, "letter", TWO)
    next(rows)
    rows.close()
    assert multiprocessing.active_children() == []
