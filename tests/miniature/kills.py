"""Processes that die in the middle of their work, for tests of kills."""

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from rellm_cache.workers.coordinator import WorkerEvents, WorkerHandle, WorkerPool
from rellm_cache.workers.messages import Event
from rellm_cache.workers.processes import ProcessHandle
from rellm_cache.workers.ray import ActorHandle

# `killed_after(2)`: what runs within dies at its third row of a journal; the rows it wrote.
KilledAfter = Callable[[int], AbstractContextManager[list[dict[str, Any]]]]

# A script that extracts `manifest recipe cache` and kills itself before its sixth commit.
KILLED_EXTRACTION = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from rellm_cache.config.recipes import load_recipe
from rellm_cache.extraction.run import extract
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.store import writer

sync, calls = writer.sync_tree, []

def die(folder):
    calls.append(folder)
    if len(calls) == 7:  # the store, five parts, and the sixth is written but not renamed
        os.kill(os.getpid(), signal.SIGKILL)
    sync(folder)

writer.sync_tree = die
manifest, recipe, cache = sys.argv[1:]
options = ExtractionOptions(commit_seconds=0)  # every clip is a part
extract(Path(manifest), load_recipe(recipe), Path(cache), batch_size=2, options=options)
"""


def process_id(handle: ProcessHandle) -> int:
    """Id of a worker process."""
    assert handle.process.pid is not None
    return handle.process.pid


def actor_process_id(handle: ActorHandle) -> int:
    """Id of the process of a Ray actor."""
    import ray  # an extra, which tests of processes do without

    found: int = ray.get(handle.actor.__ray_call__.remote(lambda actor: os.getpid()))
    return found


def kill_first(
    monkeypatch: pytest.MonkeyPatch,
    pool: type[WorkerPool],
    pid_of: Callable[[Any], int],
    event: type[Event],
    wait_before: Callable[[], None] = lambda: None,
) -> list[int]:
    """Kill the first worker that sends an event; returns a list that its process id is added to.

    Args:
        wait_before: called before the kill.
    """
    killed: list[int] = []
    wait = pool.wait

    def wait_and_kill(
        self: WorkerPool, handles: Sequence[WorkerHandle], seconds: float | None
    ) -> WorkerEvents:
        found = wait(self, handles, seconds)
        senders = [handle for handle, sent in found if isinstance(sent, event)]
        if senders and not killed:
            wait_before()
            killed.append(pid_of(senders[0]))
            os.kill(killed[0], signal.SIGKILL)
        return found

    monkeypatch.setattr(pool, "wait", wait_and_kill)
    return killed
