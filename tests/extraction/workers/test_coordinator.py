"""The coordinator hears all that is said before it acts on an error, and waits for nobody twice."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import StoreError
from rellm_cache.extraction.messages import Batch, Broken, Event, Finished, Ready, Work
from rellm_cache.extraction.workers.coordinator import Coordinator, Handle


class OneWorker:
    """A worker that has said all of `said` at once, and says nothing after it."""

    name = "worker"
    size = 1

    def __init__(self, *said: Event) -> None:
        self.said = [*said]
        self.told: list[str] = []

    def start(self) -> Handle:
        return self

    def wait(self, handles: Sequence[Handle], seconds: float | None) -> list[tuple[Handle, Event]]:
        assert self.said, "waited for a worker that has ended"
        said, self.said = self.said, []
        return [(self, event) for event in said]

    def close(self) -> None:
        self.told.append("close")

    def send(self, batch: Batch) -> None:
        self.told.append("send")

    def finish(self) -> None:
        self.told.append("finish")

    def stop(self) -> None:
        self.told.append("stop")


def test_a_worker_whose_error_and_end_are_heard_together_is_not_waited_for(tmp_path: Path) -> None:
    error = StoreError("the disk is full")
    pool = OneWorker(Ready(1), Broken(error), Broken(StoreError("again")), Finished())
    batch = Batch(0, (Work(Utterance("a", str(tmp_path / "a.wav")), frozenset()),))
    coordinator = Coordinator(pool, [], [batch], lambda count=1, note="": None, print)
    with pytest.raises(StoreError, match="the disk is full"):
        coordinator.run()
    assert pool.told == ["close"]
