"""The coordinator handles all events of a call before it raises an error."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import StoreError
from rellm_cache.extraction.messages import (
    Aborted,
    ClipBatch,
    Command,
    Event,
    Finished,
    MissingClip,
    Ready,
)
from rellm_cache.extraction.workers.coordinator import Coordinator, WorkerEvents, WorkerHandle


class OneWorker:
    """A worker that emits all of `events` at once, and nothing after them."""

    name = "worker"
    size = 1

    def __init__(self, *events: Event) -> None:
        self.events = [*events]
        self.calls: list[str] = []

    def start(self) -> WorkerHandle:
        return self

    def wait(self, handles: Sequence[WorkerHandle], seconds: float | None) -> WorkerEvents:
        assert self.events, "waited for a worker that has ended"
        events, self.events = self.events, []
        return [(self, event) for event in events]

    def close(self) -> None:
        self.calls.append("close")

    def send(self, command: Command) -> None:
        self.calls.append("send")


def test_a_worker_that_reports_its_error_and_its_end_together_is_not_waited_for(
    tmp_path: Path,
) -> None:
    error = StoreError("the disk is full")
    pool = OneWorker(Ready(1), Aborted(error), Aborted(StoreError("again")), Finished())
    batch = ClipBatch(0, (MissingClip(Utterance("a", str(tmp_path / "a.wav")), frozenset()),))
    coordinator = Coordinator(pool, [], [batch], lambda count=1, note="": None, print)
    with pytest.raises(StoreError, match="the disk is full"):
        coordinator.run()
    assert pool.calls == ["close"]
