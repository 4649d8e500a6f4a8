"""Coordinator of workers: assigns batches, and requeues the items of workers that die.

Each ready worker has a few batches. When a worker dies, its items that are not stored are queued
again. Those of its unfinished batches are queued in isolated batches of a quarter of the size, down
to one, so that an item that kills workers is found; it is given up after `MAX_TRIES` deaths. What
is stored is asked of a `Work`, which reads it where it can, and does not trust messages.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Protocol

from rellm_cache.errors import WorkersError
from rellm_cache.utils.console import Tick, counted
from rellm_cache.workers.messages import (
    FINISH,
    STOP,
    Aborted,
    Batch,
    BatchDone,
    Command,
    Died,
    Event,
    Finished,
    Item,
    Note,
    Ready,
    Result,
)

MAX_TRIES = 3  # worker deaths before an item is given up
MAX_EARLY_DEATHS = 3  # in a row, for each worker, before it has done anything
SPLIT = 4  # an unfinished batch of a dead worker is divided by this
STOP_SECONDS = 60.0  # for the other workers to store what they have after an error


class WorkerHandle(Protocol):
    """The coordinator's end of one worker."""

    name: str  # for messages

    def send(self, command: Command) -> None:
        """Send a batch, `FINISH` or `STOP`."""
        ...


WorkerEvents = list[tuple[WorkerHandle, Event]]


class WorkerPool(Protocol):
    """Starts workers and collects their events."""

    size: int  # most workers at a time

    def start(self) -> WorkerHandle:
        """Start one more worker. It emits `Ready` when it takes batches."""
        ...

    def wait(self, handles: Sequence[WorkerHandle], seconds: float | None) -> WorkerEvents:
        """Block until there are events and return them; empty after `seconds` without any."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class Work(Protocol[Item]):
    """What is made of the items: it records results and knows what is stored."""

    unit: str  # name of an item, for messages
    in_flight: int  # most batches of a worker at a time

    def record(self, batch: Batch[Item], done: BatchDone) -> str:
        """Record a finished batch; returns a note for the progress bar."""
        ...

    def find_lost(self, items: Iterable[Item]) -> list[Item]:
        """Of the items of a dead worker, those that are not stored and have not failed."""
        ...

    def give_up(self, item: Item, reason: str) -> None:
        """Record an item as failed, or raise an error."""
        ...


@dataclass
class _Worker(Generic[Item]):
    """A worker, and the batches and items assigned to it."""

    handle: WorkerHandle
    ready: bool = False
    finishing: bool = False
    in_flight: dict[int, Batch[Item]] = field(default_factory=dict)
    assigned: dict[str, Item] = field(default_factory=dict)
    ticked: int = 0


class Coordinator(Generic[Item]):
    """Assigns batches to the workers of a pool until every item is stored or has failed.

    Args:
        tick: called with the number of items done.
        say: called with messages for the user.
    """

    def __init__(
        self,
        pool: WorkerPool,
        work: Work[Item],
        batches: Sequence[Batch[Item]],
        tick: Tick,
        say: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._work = work
        self._queue = deque(batches)
        self._isolated: deque[Batch[Item]] = deque()
        self._workers: list[_Worker[Item]] = []
        self._deaths: Counter[str] = Counter()
        self._early_deaths = 0
        self._last_number = len(batches)
        self._batch_size = max((len(batch.items) for batch in batches), default=1)
        self._tick = tick
        self._say = say

    def run(self) -> Iterator[Result]:
        """Yield results as they arrive; ends when every item is stored or has failed.

        Close the iterator to end the workers earlier.

        Raises:
            RellmError: a worker met an error that is not about one item, or workers keep dying.
        """
        try:
            while self._queue or self._isolated or any(w.assigned for w in self._workers):
                self._start_workers()
                self._assign()
                yield from self._handle_events(None)
        except BaseException:
            self._stop_workers()
            raise
        finally:
            self._pool.close()

    def _start_workers(self) -> None:
        """Start workers up to the size of the pool, but not more than there are batches."""
        active = sum(not worker.finishing for worker in self._workers)
        wanted = min(self._pool.size, active + len(self._queue) + len(self._isolated))
        for _ in range(wanted - active):
            self._workers.append(_Worker(self._pool.start()))

    def _assign(self) -> None:
        for worker in self._workers:
            if not worker.ready or worker.finishing:
                continue
            while (batch := self._next_for(worker)) is not None:
                worker.in_flight[batch.number] = batch
                worker.assigned.update((item.id, item) for item in batch.items)
                worker.handle.send(batch)
            if not (worker.in_flight or self._queue or self._isolated):
                worker.finishing = True
                worker.handle.send(FINISH)

    def _next_for(self, worker: _Worker[Item]) -> Batch[Item] | None:
        """The next batch. An isolated one goes to an idle worker, which gets no other."""
        if not worker.in_flight and self._isolated:
            return self._isolated.popleft()
        isolated = any(batch.isolated for batch in worker.in_flight.values())
        if self._queue and len(worker.in_flight) < self._work.in_flight and not isolated:
            return self._queue.popleft()
        return None

    def _handle_events(self, seconds: float | None) -> Iterator[Result]:
        handles = [worker.handle for worker in self._workers]
        errors: list[Exception] = []
        for handle, event in self._pool.wait(handles, seconds):
            worker = next(w for w in self._workers if w.handle is handle)
            match event:
                case Ready():
                    worker.ready = True
                case Result():
                    yield event
                case BatchDone():
                    self._record(worker, event)
                case Note():
                    self._say(f"{handle.name}: {event.text}")
                case Finished():
                    self._workers.remove(worker)
                    self._early_deaths = 0
                case Died():
                    self._workers.remove(worker)
                    self._requeue(worker, event.reason)
                case Aborted():
                    errors.append(event.error)
        if errors:  # after all events: a worker that has ended must not be waited for again
            raise errors[0]

    def _record(self, worker: _Worker[Item], done: BatchDone) -> None:
        batch = worker.in_flight.pop(done.number)
        note = self._work.record(batch, done)
        worker.ticked += len(batch.items)
        self._tick(len(batch.items), note)

    def _requeue(self, worker: _Worker[Item], reason: str) -> None:
        """Queue a dead worker's lost items again, those of unfinished batches in isolated ones."""
        lost = self._work.find_lost(worker.assigned.values())
        unit = self._work.unit
        self._say(
            f"{worker.handle.name} died ({reason}): what it had stored is kept, "
            f"{counted(len(lost), f'{unit} is', f'{unit}s are')} done again"
        )
        in_flight = {item.id for batch in worker.in_flight.values() for item in batch.items}
        again = [item for item in lost if item.id not in in_flight]
        for start in range(0, len(again), self._batch_size):
            self._queue.append(self._batch(again[start : start + self._batch_size]))
        failed, unfinished = 0, {item.id for item in lost} & in_flight
        for batch in worker.in_flight.values():
            failed += self._isolate([i for i in batch.items if i.id in unfinished], reason)
        self._tick(len(worker.assigned) - len(lost) + failed - worker.ticked)
        if in_flight or len(lost) < len(worker.assigned):
            self._early_deaths = 0
            return
        self._early_deaths += 1
        if self._early_deaths >= MAX_EARLY_DEATHS * self._pool.size:
            raise WorkersError(
                f"{self._early_deaths} workers in a row died before they had done a {unit}; the "
                f"last: {reason}. Each worker loads the models: try fewer with --workers. Without "
                "--workers the cause may become visible"
            )

    def _isolate(self, items: Sequence[Item], reason: str) -> int:
        """Queue items in isolated batches; a single one that killed too many workers is given up.

        Returns the number of items given up.
        """
        self._deaths.update(item.id for item in items)
        if len(items) == 1 and self._deaths[items[0].id] >= MAX_TRIES:
            deaths = self._deaths[items[0].id]
            self._work.give_up(items[0], f"{deaths} workers died at it, the last: {reason}")
            return 1
        size = max(1, len(items) // SPLIT)
        for start in range(0, len(items), size):
            self._isolated.append(self._batch(items[start : start + size], isolated=True))
        return 0

    def _batch(self, items: Sequence[Item], isolated: bool = False) -> Batch[Item]:
        self._last_number += 1
        return Batch(self._last_number, tuple(items), isolated)

    def _stop_workers(self) -> None:
        """Let the other workers store what they have."""
        for worker in self._workers:
            worker.handle.send(STOP)
        until = monotonic() + STOP_SECONDS
        left = [worker.handle for worker in self._workers if worker.ready]
        while left and (seconds := until - monotonic()) > 0:
            for handle, event in self._pool.wait(left, seconds):
                if isinstance(event, Finished | Died) and handle in left:
                    left.remove(handle)
