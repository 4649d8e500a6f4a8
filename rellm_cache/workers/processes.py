"""Worker processes of this machine.

Processes come from `fork_server` and are never forked from this one. Each gets its share of the
CPU's threads, or one of the GPUs. A worker whose parent has ended stores what it has and ends.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

import torch

from rellm_cache.utils.devices import threads_each
from rellm_cache.workers.coordinator import WorkerEvents, WorkerHandle
from rellm_cache.workers.fork_server import worker_context
from rellm_cache.workers.messages import STOP, Command, Died, Event, Finished, WorkerTask

END_SECONDS = 10.0
SERVER_DIED = 255  # multiprocessing's exit code for a process whose fork server has ended


class ProcessHandle:
    """The coordinator's end of one worker. A process that fails to start is reported as dead."""

    def __init__(self, name: str, task: WorkerTask) -> None:
        self.name = name
        with worker_context(task) as context:
            self.connection, theirs = context.Pipe()
            arguments = (theirs, task, dict(os.environ))
            self.process = context.Process(target=worker_main, args=arguments, name=name)
            # If the fork server dies during the request, the process has no id.
            with contextlib.suppress(EOFError, ConnectionError):
                self.process.start()
        theirs.close()

    def send(self, command: Command) -> None:
        """Send a command. If the worker has just died, `ProcessPool.wait` reports it."""
        with contextlib.suppress(OSError):
            self.connection.send(command)

    def receive(self) -> list[Event]:
        """All events since the last call; `Died` is last."""
        events: list[Event] = []
        try:
            while self.connection.poll():
                events.append(self.connection.recv())
        except (EOFError, OSError):
            if not any(isinstance(event, Finished) for event in events):
                events.append(Died(self._reason()))
        return events

    def _reason(self) -> str:
        """Why the process died."""
        if self.process.pid is None:
            return "the fork server has died"
        self.process.join()
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        if code == SERVER_DIED:
            return f"exit code {code}, or unknown because its fork server has died too"
        return f"exit code {code}"

    def end(self) -> None:
        """Wait for the process for `END_SECONDS`, then kill it."""
        self.connection.close()
        if self.process.pid is not None:
            self.process.join(END_SECONDS)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
        self.process.close()


class ProcessPool:
    """Starts worker processes on this machine."""

    def __init__(self, size: int, task: WorkerTask) -> None:
        self.size = size
        self._task = task
        self._gpus = torch.cuda.device_count() if task.device is None else 0
        self._threads = threads_each(size)
        self._started: list[ProcessHandle] = []

    def start(self) -> WorkerHandle:
        """Start one more worker, on the next GPU if there are any."""
        number = len(self._started)
        device = torch.device("cuda", number % self._gpus) if self._gpus else self._task.device
        task = replace(self._task, device=device, threads=self._threads)
        self._started.append(ProcessHandle(f"worker {number + 1}", task))
        return self._started[-1]

    def wait(self, handles: Sequence[WorkerHandle], seconds: float | None) -> WorkerEvents:
        """Block until workers sent events or died."""
        by_connection = {h.connection: h for h in handles if isinstance(h, ProcessHandle)}
        ready = wait(by_connection, seconds)
        return [
            (handle, event)
            for connection, handle in by_connection.items()
            if connection in ready
            for event in handle.receive()
        ]

    def close(self) -> None:
        """End all workers."""
        for handle in self._started:
            handle.end()


def worker_main(connection: Connection, task: WorkerTask, environment: Mapping[str, str]) -> None:
    """The main function of a worker process.

    Args:
        environment: of the coordinator. The fork server's may be older.
    """
    os.environ.clear()
    os.environ.update(environment)
    lock = threading.Lock()

    def emit(event: Event) -> None:
        with lock, contextlib.suppress(OSError):
            connection.send(event)

    def receive() -> Command:
        try:
            command: Command = connection.recv()
        except (EOFError, OSError):  # the coordinator has ended
            return STOP
        return command

    task.run(receive, emit)
