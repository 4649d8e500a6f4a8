"""Worker thread that answers requests one after another, with a bounded queue.

All models run in this thread, so that two requests never mix. A job tells what it found in events;
who reads them may leave at any time.
"""

import threading
from collections.abc import Callable, Iterator
from queue import Full, Queue, SimpleQueue
from typing import Any

from rellm_cache.serving.errors import QueueFullError, StoppedError

Emit = Callable[[Any], None]
Work = Callable[[Emit], None]


class CancelledError(Exception):
    """Ends a job that nobody waits for."""


class _End:
    """The last item of a job: its error, or none."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class Job(Iterator[Any]):
    """Events of one request, in order. Iteration raises the error that ended its work."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._items: SimpleQueue[Any] = SimpleQueue()
        self._cancelled = threading.Event()
        self._ended = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        item = self._items.get()
        if not isinstance(item, _End):
            return item
        self._ended = True
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """End the work at its next event: nobody reads it any more."""
        self._cancelled.set()

    def run(self, stopping: threading.Event) -> None:
        """Do the work, in the worker's thread."""

        def emit(event: Any) -> None:
            if stopping.is_set():
                raise StoppedError
            if self._cancelled.is_set():
                raise CancelledError
            self._items.put(event)

        try:
            if not self._cancelled.is_set():
                self._work(emit)
            self.end(None)
        except CancelledError:
            self.end(None)
        except Exception as error:  # handed to the reader, whatever it is
            self.end(error)

    def end(self, error: Exception | None) -> None:
        """Tell the reader that no event follows."""
        self._items.put(_End(error))


class Worker:
    """A thread that does jobs in the order of their start; at most `waiting` of them wait."""

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._jobs: Queue[Job | None] = Queue(waiting)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rellm-serve", daemon=True)
        self._thread.start()

    def start(self, work: Work) -> Job:
        """Put work at the end of the queue.

        Raises:
            QueueFullError: as many jobs wait as may wait.
            StoppedError: the worker has been closed.
        """
        if self._stopping.is_set():
            raise StoppedError
        job = Job(work)
        try:
            self._jobs.put_nowait(job)
        except Full:
            raise QueueFullError(self._waiting) from None
        return job

    @property
    def is_full(self) -> bool:
        """Whether a job that is started now is refused."""
        return self._jobs.full()

    def close(self) -> None:
        """End the job in work at its next event, and all that wait; then the thread ends."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        while not self._jobs.empty():
            waiting = self._jobs.get()
            if waiting is not None:
                waiting.end(StoppedError())
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._stopping.is_set():
                job.end(StoppedError())
            else:
                job.run(self._stopping)
