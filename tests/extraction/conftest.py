"""Fixtures: reference results of one process, and a worker that is killed."""

import glob
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from kills import kill_first

from rellm_cache.config.schema import Recipe
from rellm_cache.extraction.run import extract
from rellm_cache.workers.coordinator import WorkerPool
from rellm_cache.workers.messages import BatchDone

Checksums = Callable[[Path], dict[str, int]]
COMMITTED = ("cache/*/part-*", "copies/*/*/part-*")  # in a folder, and in the copy of a URL


@pytest.fixture
def undisturbed(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, checksums: Checksums
) -> dict[str, int]:
    """What one process makes of the corpus, in one batch."""
    (report,) = extract(corpus, speech_recipe, tmp_path / "undisturbed", batch_size=16)
    return checksums(report.path)


@pytest.fixture
def own_fork_server() -> Iterator[None]:
    """Workers of this test are forked from a server that is started in it, and ends with it."""
    forkserver._forkserver._stop()
    yield
    forkserver._forkserver._stop()


@pytest.fixture
def kill_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """`kill_one(pool, pid_of)` kills the first worker with a finished batch after a commit.

    The worker has further batches then. Returns a list that its process id is added to.
    """

    def wait_for_commit() -> None:
        # Not Path.glob, which fails if a folder is removed meanwhile.
        while not any(glob.glob(p, root_dir=tmp_path) for p in COMMITTED):
            time.sleep(0.005)

    def arrange(pool: type[WorkerPool], pid_of: Callable[[Any], int]) -> list[int]:
        return kill_first(monkeypatch, pool, pid_of, BatchDone, wait_for_commit)

    return arrange
