"""Messages between a coordinator and its workers. All of them can be pickled.

A worker is started with a `WorkerTask`. It is sent `Command`s and sends back `Event`s.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch

from rellm_cache.errors import RellmError

FINISH = "finish"  # do all batches received and end
STOP = "stop"  # drop what has not started and end


class HasId(Protocol):
    """Something with an id that is unique within one command."""

    @property
    def id(self) -> str:
        """The id."""
        ...


Item = TypeVar("Item", bound=HasId)


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """Items that one worker does together."""

    number: int  # identifies the batch within one command
    items: tuple[Item, ...]
    # A worker died while it had these items. It gets no other batch beside them and stores them at
    # once, so that only an item that kills workers is blamed for a death.
    isolated: bool = False


@dataclass(frozen=True)
class BatchDone:
    """All items of a batch are done."""

    number: int  # of the batch


@dataclass(frozen=True)
class Result:
    """The result of one item of a batch, as soon as it is there."""

    id: str  # of the item
    value: Any


@dataclass(frozen=True)
class Note:
    """A message for the user."""

    text: str


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its models and takes batches."""

    pid: int


@dataclass(frozen=True)
class Finished:
    """A worker has ended. Everything it did is stored, unless it sent `Aborted`."""


@dataclass(frozen=True)
class Died:
    """A worker process is gone and what it had not stored is lost."""

    reason: str


@dataclass(frozen=True)
class Aborted:
    """A worker met an error that is not about one item. It stores what it can and ends."""

    error: Exception

    @classmethod
    def from_error(cls, error: BaseException) -> "Aborted":
        """Wrap any error so that another process can unpickle it."""
        if isinstance(error, RellmError):
            return cls(error)
        return cls(RuntimeError("".join(traceback.format_exception(error))))


Command = Batch[Any] | str  # a batch, `FINISH` or `STOP`
Event = BatchDone | Result | Note | Ready | Finished | Died | Aborted
Emit = Callable[[Event], None]
Receive = Callable[[], Command]  # waits for the next command


@dataclass(frozen=True)
class WorkerTask(ABC):
    """What a worker does, and what it needs before its first batch."""

    # None for the first GPU that the worker sees, or the CPU.
    device: torch.device | None = field(default=None, kw_only=True)
    threads: int = field(default=0, kw_only=True)  # CPU threads for torch; 0 keeps the default

    @property
    @abstractmethod
    def modules(self) -> list[str]:
        """Modules whose import takes long; workers on a CPU share it."""

    @abstractmethod
    def run(self, receive: Receive, emit: Emit) -> None:
        """Load the models and do batches as they arrive; `Finished` is the last event."""
