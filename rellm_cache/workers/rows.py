"""Rows by many workers: each loads its models once and sends every row as soon as it is made.

The caller appends the rows to its table, as it does with rows of its own. So a killed worker costs
only the rows that it was making, and a second call makes what the table lacks.
"""

import os
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rellm_cache.errors import WorkersError
from rellm_cache.utils.console import say, silent
from rellm_cache.utils.interrupts import Interrupts
from rellm_cache.workers.coordinator import Coordinator
from rellm_cache.workers.messages import (
    STOP,
    Aborted,
    Batch,
    BatchDone,
    Command,
    Emit,
    Finished,
    Note,
    Ready,
    Receive,
    Result,
    WorkerTask,
)
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.pools import start_pool

BATCHES = 4  # of the model, in one batch of a worker: answers that have ended make room for others

Rows = Generator[tuple[str, Any], None, None]  # ids and their rows
MakeRows = Callable[[Sequence[Any]], Rows]


@dataclass(frozen=True)
class _Item:
    """What one row is made of, with the id of the row."""

    id: str
    value: Any


@dataclass(frozen=True)
class RowTask(WorkerTask):
    """The task of a worker that makes one row of each item, with a model."""

    batch_size: int  # items in a batch of the model

    @property
    def modules(self) -> list[str]:
        """The module of the task, which imports what its models need."""
        return [type(self).__module__]

    @abstractmethod
    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the models; returns a function from values to ids and rows.

        Args:
            note: called with messages for the user.
        """

    def run(self, receive: Receive, emit: Emit) -> None:
        """Load the models and make rows; it stops after the row in which it is told to."""
        stopped = threading.Event()
        commands: queue.Queue[Command] = queue.Queue()

        def listen() -> None:
            while not isinstance(command := receive(), str):
                commands.put(command)
            if command == STOP:
                stopped.set()
            commands.put(command)

        try:
            if self.threads:
                torch.set_num_threads(self.threads)
            if self.device is not None and self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # `default_device` is this one now
            threading.Thread(target=listen, daemon=True).start()
            make = self.load(lambda text: emit(Note(text)))
            emit(Ready(os.getpid()))
            while not isinstance(batch := commands.get(), str):
                for name, row in make([item.value for item in batch.items]):
                    emit(Result(name, row))
                    if stopped.is_set():
                        break
                else:
                    emit(BatchDone(batch.number))
        except BaseException as error:
            emit(Aborted.from_error(error))
        emit(Finished())


class _RowWork:
    """Items whose rows were sent to the caller."""

    in_flight = 1  # a worker makes one batch after the other

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.made: set[str] = set()

    def record(self, batch: Batch[_Item], done: BatchDone) -> str:
        """Nothing is left to record: the rows are with the caller."""
        return ""

    def find_lost(self, items: Iterable[_Item]) -> list[_Item]:
        """Items without a row."""
        return [item for item in items if item.id not in self.made]

    def give_up(self, item: _Item, reason: str) -> None:
        """Raise `WorkersError`: a table has no place for a row that kills workers."""
        raise WorkersError(
            f"{self.unit} {item.id!r:.200}: {reason}; leave it out, or look for the cause without "
            "--workers. The rows that were made are kept"
        )


def make_rows(task: RowTask, items: Mapping[str, Any], unit: str, options: WorkerOptions) -> Rows:
    """Yield ids and rows, made by workers or in this process; as `rows_by_workers`."""
    if options.has_workers:
        yield from rows_by_workers(task, items, unit, options)
    elif items:
        yield from task.load(say)(list(items.values()))


def rows_by_workers(
    task: RowTask, items: Mapping[str, Any], unit: str, options: WorkerOptions
) -> Rows:
    """Yield ids and rows as workers make them. Close the iterator to end them earlier.

    Args:
        items: id → value to make its row of, in the order in which one process would batch them.
        unit: name of an item, for messages.

    Raises:
        RellmError: a worker met an error, or workers cannot be started or kept alive.
    """
    pool = start_pool(task, options)
    size = task.batch_size * max(
        1, min(BATCHES, len(items) // (BATCHES * pool.size * task.batch_size))
    )
    queued = [_Item(name, value) for name, value in items.items()]
    starts = range(0, len(queued), size)
    batches = [Batch(n, tuple(queued[i : i + size])) for n, i in enumerate(starts)]
    work = _RowWork(unit)
    with Interrupts():
        for result in Coordinator(pool, work, batches, silent, say).run():
            work.made.add(result.id)
            yield result.id, result.value
