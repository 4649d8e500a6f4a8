"""Workers as processes of this machine. In: a job. Out: a pool for the coordinator.

Processes are spawned, never forked. Each gets its share of the CPU's threads, or a GPU by turns.
A worker whose parent is gone commits what it has and ends.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import torch

from rellm_cache.stages.extraction.coordinator import Handle
from rellm_cache.stages.extraction.pipeline import StopWork, serve
from rellm_cache.stages.extraction.work import FINISH, STOP, Batch, Died, Event, Finished, Job

END_SECONDS = 10.0


class ProcessHandle:
    """One spawned worker."""

    def __init__(self, name: str, job: Job) -> None:
        context = get_context("spawn")
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, job), name=name)
        with _deaf_to_interrupts():
            self.process.start()
        theirs.close()

    def send(self, batch: Batch) -> None:
        """Give it a batch."""
        self._send(batch)

    def finish(self) -> None:
        """Let it encode what it has, commit and end."""
        self._send(FINISH)

    def stop(self) -> None:
        """Let it leave what it has not begun, commit and end."""
        self._send(STOP)

    def _send(self, command: Batch | str) -> None:
        # A worker that has just died is reported by `ProcessPool.wait`.
        with contextlib.suppress(OSError):
            self.connection.send(command)

    def hear(self) -> list[Event]:
        """All it has said; its death last."""
        events: list[Event] = []
        try:
            while self.connection.poll():
                events.append(self.connection.recv())
        except (EOFError, OSError):
            self.process.join()
            if not any(isinstance(event, Finished) for event in events):
                events.append(Died(_reason(self.process.exitcode)))
        return events

    def end(self) -> None:
        """Wait for it a little, then kill it."""
        self.connection.close()
        self.process.join(END_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()


class ProcessPool:
    """Spawns workers."""

    def __init__(self, size: int, job: Job) -> None:
        self.size = size
        self._job = job
        self._gpus = torch.cuda.device_count() if job.device is None else 0
        self._threads = max(1, len(os.sched_getaffinity(0)) // size)
        self._started: list[ProcessHandle] = []

    def start(self) -> Handle:
        """Start one more worker; with GPUs, on the next of them."""
        number = len(self._started)
        device = torch.device("cuda", number % self._gpus) if self._gpus else self._job.device
        job = replace(self._job, device=device, threads=self._threads)
        self._started.append(ProcessHandle(f"worker {number + 1}", job))
        return self._started[-1]

    def wait(self, handles: Sequence[Handle], seconds: float | None) -> list[tuple[Handle, Event]]:
        """What the workers have said, and which have died."""
        by_connection = {h.connection: h for h in handles if isinstance(h, ProcessHandle)}
        ready = wait(by_connection, seconds)
        return [
            (handle, event)
            for connection, handle in by_connection.items()
            if connection in ready
            for event in handle.hear()
        ]

    def close(self) -> None:
        """End all workers."""
        for handle in self._started:
            handle.end()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started here ignores Ctrl-C, from its first moment: the coordinator handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def work(connection: Connection, job: Job) -> None:
    """The main function of a worker process."""
    lock = threading.Lock()

    def emit(event: Event) -> None:
        with lock, contextlib.suppress(OSError):
            connection.send(event)

    serve(job, _batches(connection), emit)


def _batches(connection: Connection) -> Iterator[Batch]:
    while True:
        try:
            command = connection.recv()
        except (EOFError, OSError) as error:
            raise StopWork from error
        if command == STOP:
            raise StopWork
        if command == FINISH:
            return
        yield command
