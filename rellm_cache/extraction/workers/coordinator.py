"""Coordinator of extraction workers: assigns batches, and requeues the clips of workers that die.

Each ready worker has a few batches. When a worker dies, its clips are looked up in the stores:
committed ones are done, the others are queued again. Clips in its unfinished batches are queued in
batches of one, so that a clip that kills workers is found; after `MAX_TRIES` deaths it is listed as
failed. Which clips are committed is read from the stores, not from the workers' messages.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from rellm_cache.errors import WorkersError
from rellm_cache.extraction.messages import (
    FINISH,
    STOP,
    Aborted,
    BatchDone,
    ClipBatch,
    Command,
    Died,
    Event,
    Failure,
    Finished,
    MissingClip,
    Note,
    Ready,
)
from rellm_cache.extraction.missing import TargetStore, find_uncommitted
from rellm_cache.extraction.pipeline import MAX_BATCHES_IN_FLIGHT
from rellm_cache.utils.console import Tick, counted

MAX_TRIES = 3  # worker deaths before a clip is given up
MAX_EARLY_DEATHS = 3  # in a row, for each worker, before it has encoded anything
STOP_SECONDS = 60.0  # for the other workers to commit after an error


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


@dataclass
class _Worker:
    """A worker, and the batches and clips assigned to it."""

    handle: WorkerHandle
    ready: bool = False
    finishing: bool = False
    in_flight: dict[int, ClipBatch] = field(default_factory=dict)
    assigned: dict[str, MissingClip] = field(default_factory=dict)
    ticked: int = 0


class Coordinator:
    """Assigns batches to the workers of a pool until every clip is committed or has failed."""

    def __init__(
        self,
        pool: WorkerPool,
        targets: Sequence[TargetStore],
        batches: Sequence[ClipBatch],
        tick: Tick,
        say: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._targets = targets
        self._queue = deque(batches)
        self._isolated: deque[ClipBatch] = deque()
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()
        self._early_deaths = 0
        self._hours = 0.0
        self._last_number = len(batches)
        self._batch_size = max(len(batch.clips) for batch in batches)
        self._tick = tick
        self._say = say

    def run(self) -> None:
        """Return when every clip is committed or has failed.

        Raises:
            RellmError: a worker met an error that is not about one clip, or workers keep dying.
        """
        try:
            while self._queue or self._isolated or any(w.assigned for w in self._workers):
                self._start_workers()
                self._assign()
                self._handle_events(None)
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
                worker.assigned.update((clip.utterance.id, clip) for clip in batch.clips)
                worker.handle.send(batch)
            if not (worker.in_flight or self._queue or self._isolated):
                worker.finishing = True
                worker.handle.send(FINISH)

    def _next_for(self, worker: _Worker) -> ClipBatch | None:
        """The next batch. An isolated one goes to an idle worker, which gets no other."""
        if not worker.in_flight and self._isolated:
            return self._isolated.popleft()
        isolated = any(batch.isolated for batch in worker.in_flight.values())
        if self._queue and len(worker.in_flight) < MAX_BATCHES_IN_FLIGHT and not isolated:
            return self._queue.popleft()
        return None

    def _handle_events(self, seconds: float | None) -> None:
        handles = [worker.handle for worker in self._workers]
        errors: list[Exception] = []
        for handle, event in self._pool.wait(handles, seconds):
            worker = next(w for w in self._workers if w.handle is handle)
            match event:
                case Ready():
                    worker.ready = True
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

    def _record(self, worker: _Worker, done: BatchDone) -> None:
        batch = worker.in_flight.pop(done.number)
        for target in self._targets:
            target.record(batch, done)
        worker.ticked += len(batch.clips)
        self._hours += sum(done.seconds.values()) / 3600
        self._tick(len(batch.clips), f"{self._hours:.2f} h of audio")

    def _requeue(self, worker: _Worker, reason: str) -> None:
        """Queue a dead worker's uncommitted clips again, those of unfinished batches one by one."""
        in_flight = {c.utterance.id for batch in worker.in_flight.values() for c in batch.clips}
        lost = find_uncommitted(worker.assigned.values(), self._targets)
        self._say(
            f"{worker.handle.name} died ({reason}): "
            f"{counted(len(lost), 'clip of its open part is', 'clips of its open part are')} to be "
            "encoded again"
        )
        again = [clip for clip in lost if clip.utterance.id not in in_flight]
        for start in range(0, len(again), self._batch_size):
            self._queue.append(self._batch(again[start : start + self._batch_size]))
        failed = 0
        for clip in lost:
            if clip.utterance.id in in_flight:
                failed += self._isolate(clip, reason)
        self._tick(len(worker.assigned) - len(lost) + failed - worker.ticked)
        if in_flight or len(lost) < len(worker.assigned):
            self._early_deaths = 0
            return
        self._early_deaths += 1
        if self._early_deaths >= MAX_EARLY_DEATHS * self._pool.size:
            raise WorkersError(
                f"{self._early_deaths} workers in a row died before they had encoded a clip; the "
                f"last: {reason}. Each worker loads the models: try fewer with --workers. Without "
                "--workers the cause may become visible"
            )

    def _isolate(self, clip: MissingClip, reason: str) -> bool:
        """Queue a clip in its own batch. After `MAX_TRIES` deaths, fail it and return True."""
        utterance = clip.utterance
        self._deaths[utterance.id] += 1
        if self._deaths[utterance.id] < MAX_TRIES:
            self._isolated.append(self._batch([clip], isolated=True))
            return False
        died = f"{MAX_TRIES} workers died while encoding this clip, the last: {reason}"
        failure = Failure(utterance.id, utterance.audio, f"{utterance.audio}: {died}")
        for target in self._targets:
            if target.fingerprint in clip.missing_from:
                target.failed[utterance.id] = failure
        return True

    def _batch(self, clips: Sequence[MissingClip], isolated: bool = False) -> ClipBatch:
        self._last_number += 1
        return ClipBatch(self._last_number, tuple(clips), isolated)

    def _stop_workers(self) -> None:
        """Let the other workers commit what they have."""
        for worker in self._workers:
            worker.handle.send(STOP)
        until = monotonic() + STOP_SECONDS
        left = [worker.handle for worker in self._workers if worker.ready]
        while left and (seconds := until - monotonic()) > 0:
            for handle, event in self._pool.wait(left, seconds):
                if isinstance(event, Finished | Died) and handle in left:
                    left.remove(handle)
