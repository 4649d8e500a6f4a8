"""Workers as processes of this machine. In: a job. Out: a pool for the coordinator.

Processes are started as `fork_server` says, never forked from this one. Each gets its share of the
CPU's threads, or a GPU by turns. A worker whose parent is gone commits what it has and ends.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import torch

from rellm_cache.extraction.messages import FINISH, STOP, Batch, Died, Event, Finished, Job
from rellm_cache.extraction.pipeline import StopWork, serve
from rellm_cache.extraction.workers.coordinator import Handle
from rellm_cache.extraction.workers.fork_server import worker_context

END_SECONDS = 10.0
SERVER_DIED = 255  # multiprocessing's exit code for a process whose fork server is gone


class ProcessHandle:
    """One worker. That it could not be started is heard as its death."""

    def __init__(self, name: str, job: Job) -> None:
        self.name = name
        with worker_context(job) as context:
            self.connection, theirs = context.Pipe()
            arguments = (theirs, job, dict(os.environ))
            self.process = context.Process(target=work, args=arguments, name=name)
            # A fork server that dies while it is asked leaves the process without an id.
            with contextlib.suppress(EOFError, ConnectionError):
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
            if not any(isinstance(event, Finished) for event in events):
                events.append(Died(self._reason()))
        return events

    def _reason(self) -> str:
        """Why it has died."""
        if self.process.pid is None:
            return "the server that it was to be forked from has died"
        self.process.join()
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        if code == SERVER_DIED:
            return f"exit code {code}, or unknown since the server it was forked from has died too"
        return f"exit code {code}"

    def end(self) -> None:
        """Wait for it a little, then kill it."""
        self.connection.close()
        if self.process.pid is not None:
            self.process.join(END_SECONDS)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
        self.process.close()


class ProcessPool:
    """Starts workers on this machine."""

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


def work(connection: Connection, job: Job, environment: Mapping[str, str]) -> None:
    """The main function of a worker process.

    Args:
        environment: the coordinator's; that of the fork server may be older.
    """
    os.environ.clear()
    os.environ.update(environment)
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
