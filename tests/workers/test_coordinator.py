"""The coordinator: errors, deaths of workers, and how a deadly item is found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from rellm_cache.errors import StoreError
from rellm_cache.utils.console import silent
from rellm_cache.workers.coordinator import Coordinator, WorkerEvents, WorkerHandle
from rellm_cache.workers.messages import (
    Aborted,
    Batch,
    BatchDone,
    Command,
    Died,
    Event,
    Finished,
    Ready,
    Result,
)


@dataclass(frozen=True)
class Letter:
    """An item."""

    id: str


@dataclass
class Letters:
    """Work on letters, which are stored as soon as their results arrive."""

    unit: str = "letter"
    in_flight: int = 1
    stored: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def record(self, batch: Batch[Letter], done: BatchDone) -> str:
        return ""

    def find_lost(self, items: Iterable[Letter]) -> list[Letter]:
        return [item for item in items if item.id not in self.stored]

    def give_up(self, item: Letter, reason: str) -> None:
        self.failed[item.id] = reason


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


@dataclass
class Mortal:
    """A worker that dies at a deadly letter."""

    name: str
    deadly: str
    events: list[Event] = field(default_factory=lambda: [Ready(1)])

    def send(self, command: Command) -> None:
        if isinstance(command, str):
            self.events.append(Finished())
            return
        for item in command.items:
            if item.id in self.deadly:
                self.events.append(Died("killed by SIGKILL"))
                return
            self.events.append(Result(item.id, item.id.upper()))
        self.events.append(BatchDone(command.number))


class MortalPool:
    """Workers that die at a deadly letter; `sizes` are those of the batches that they were sent."""

    def __init__(self, size: int, deadly: str) -> None:
        self.size, self.deadly = size, deadly
        self.started = 0

    def start(self) -> WorkerHandle:
        self.started += 1
        return Mortal(f"worker {self.started}", self.deadly)

    def wait(self, handles: Sequence[WorkerHandle], seconds: float | None) -> WorkerEvents:
        found: WorkerEvents = []
        for handle in handles:
            assert isinstance(handle, Mortal)
            found += [(handle, event) for event in handle.events]
            handle.events = []
        assert found, "nothing would ever happen"
        return found

    def close(self) -> None:
        pass


def test_a_worker_that_reports_its_error_and_its_end_together_is_not_waited_for() -> None:
    error = StoreError("the disk is full")
    pool = OneWorker(Ready(1), Aborted(error), Aborted(StoreError("again")), Finished())
    coordinator = Coordinator(pool, Letters(), [Batch(0, (Letter("a"),))], silent, print)
    with pytest.raises(StoreError, match="the disk is full"):
        list(coordinator.run())
    assert pool.calls == ["close"]


@pytest.mark.parametrize("size", [1, 3])
def test_a_deadly_item_is_found_and_all_others_are_done_once(size: int) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    work, pool, said = Letters(), MortalPool(size, "k"), list[str]()
    batches = [
        Batch(n, tuple(map(Letter, part))) for n, part in enumerate((letters[:20], letters[20:]))
    ]
    found: list[str] = []
    for result in Coordinator(pool, work, batches, silent, said.append).run():
        work.stored.append(result.id)
        found.append(result.value)
    assert sorted(found) == [*letters.replace("k", "").upper()]
    assert work.failed == {"k": "3 workers died at it, the last: killed by SIGKILL"}
    assert said[0] == (
        "worker 1 died (killed by SIGKILL): what it had stored is kept, 10 letters are done again"
    )
    assert pool.started - min(size, 2) <= 3  # each death is followed by one more worker
