"""What passes between the parts of an extraction. All of it can be sent to another process.

`Batch`es of `Work` go to a worker under a `Job`, then `FINISH` or `STOP`; `Event`s come back.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import RellmError
from rellm_cache.store.writer import PART_SECONDS

WINDOW_BATCHES = 16  # clips are sorted by length within so many batches
FINISH, STOP = "finish", "stop"  # encode what you have and end; leave what is not begun and end


@dataclass(frozen=True)
class Work:
    """One clip, and the fingerprints of the stores that lack it."""

    utterance: Utterance
    lacking: frozenset[str]


@dataclass(frozen=True)
class Batch:
    """Clips of similar length that are encoded together.

    Attributes:
        number: names it among the batches of one extraction.
        work: its clips.
        alone: a worker died with this clip in hand. It is encoded by itself, and committed at
            once, so that only the clip that kills is ever blamed for the next death.
    """

    number: int
    work: tuple[Work, ...]
    alone: bool = False


@dataclass(frozen=True)
class Job:
    """What a worker must know before its first batch.

    Attributes:
        specs: encoders whose stores lack clips, weights resolved.
        cache: root of the stores.
        url: that `cache` is the copy of; empty for a plain folder. A worker opens a copy of its
            own, which on the same machine is the same one.
        device: None for the first GPU a worker sees, or the CPU.
        threads: of arithmetic on a CPU; 0 leaves the library's own choice.
        commit_seconds: an open part is committed when it is so old.
    """

    specs: tuple[EncoderSpec, ...]
    cache: Path
    device: torch.device | None = None
    threads: int = 0
    commit_seconds: float = PART_SECONDS
    url: str = ""


@dataclass(frozen=True)
class Failure:
    """A clip that could not be encoded."""

    id: str
    audio: str
    reason: str


@dataclass(frozen=True)
class BatchDone:
    """A batch is in the open part of its worker, or committed already.

    Attributes:
        number: of the batch.
        seconds: of audio by clip id, decoded clips only.
        failures: by fingerprint of the store that goes without.
        encoder_seconds: of the encoders' forward passes, by fingerprint.
    """

    number: int
    seconds: dict[str, float]
    failures: dict[str, list[Failure]]
    encoder_seconds: dict[str, float]


@dataclass(frozen=True)
class Note:
    """Something the user should read."""

    text: str


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its models and takes batches."""

    pid: int


@dataclass(frozen=True)
class Finished:
    """A worker has ended and committed what it could: all it had, unless it said `Broken`."""


@dataclass(frozen=True)
class Died:
    """A worker is gone, with its open part."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """A worker met an error that no other clip would change; it commits what it can and ends."""

    error: Exception

    @classmethod
    def of(cls, error: BaseException) -> "Broken":
        """Any error in a form that another process can read."""
        if isinstance(error, RellmError):
            return cls(error)
        return cls(RuntimeError("".join(traceback.format_exception(error))))


Event = BatchDone | Note | Ready | Finished | Died | Broken
Emit = Callable[[Event], None]


def length_sorted(work: Sequence[Work], batch_size: int) -> list[Batch]:
    """Batches of similar length, in windows, so that a kill still leaves whole early parts."""
    window = batch_size * WINDOW_BATCHES
    ordered = [
        item
        for start in range(0, len(work), window)
        for item in sorted(work[start : start + window], key=lambda w: w.utterance.duration or 0)
    ]
    starts = range(0, len(ordered), batch_size)
    return [Batch(n, tuple(ordered[i : i + batch_size])) for n, i in enumerate(starts)]
