"""Messages between an extraction and its workers. All of them can be pickled.

A worker is started with a `WorkerConfig`. It is sent `Command`s and sends back `Event`s.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS, ClipLimits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import RellmError
from rellm_cache.store.writer import PART_SECONDS

WINDOW_BATCHES = 16  # clips are sorted by length within this many batches
FINISH = "finish"  # encode all batches received, commit and end
STOP = "stop"  # drop batches that have not started, commit and end


@dataclass(frozen=True)
class MissingClip:
    """A clip, and the fingerprints of the stores that lack it."""

    utterance: Utterance
    missing_from: frozenset[str]


@dataclass(frozen=True)
class ClipBatch:
    """Clips of similar length, encoded together."""

    number: int  # identifies the batch within one extraction
    clips: tuple[MissingClip, ...]  # what to encode
    # A worker died while it had this clip. The clip is encoded in a batch of its own and committed
    # at once, so that only a clip that kills workers is blamed for a death.
    isolated: bool = False


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs before its first batch."""

    specs: tuple[EncoderSpec, ...]  # encoders with missing clips, weights resolved
    cache: Path  # folder of the stores
    device: torch.device | None = None  # None for the first GPU that the worker sees, or the CPU
    threads: int = 0  # CPU threads for torch; 0 keeps the default
    commit_seconds: float = PART_SECONDS  # an open part is committed at this age
    # Object store that `cache` mirrors; empty for a plain folder. A worker opens its own mirror,
    # which on the same machine is the same folder.
    url: str = ""
    limits: ClipLimits = DEFAULT_LIMITS  # which clips are usable


@dataclass(frozen=True)
class Failure:
    """A clip that could not be encoded."""

    id: str
    audio: str
    reason: str


@dataclass(frozen=True)
class BatchDone:
    """A batch is in the worker's open part, or already committed."""

    number: int  # of the batch
    seconds: dict[str, float]  # clip id → seconds of audio, decoded clips only
    failures: dict[str, list[Failure]]  # fingerprint of a store → clips that are not stored there
    encoder_seconds: dict[str, float]  # fingerprint → seconds of forward passes


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
    """A worker has ended. Everything it encoded is committed, unless it sent `Aborted`."""


@dataclass(frozen=True)
class Died:
    """A worker process is gone and its open part is lost."""

    reason: str


@dataclass(frozen=True)
class Aborted:
    """A worker met an error that is not about one clip. It commits what it can and ends."""

    error: Exception

    @classmethod
    def from_error(cls, error: BaseException) -> "Aborted":
        """Wrap any error so that another process can unpickle it."""
        if isinstance(error, RellmError):
            return cls(error)
        return cls(RuntimeError("".join(traceback.format_exception(error))))


Command = ClipBatch | str  # a batch, `FINISH` or `STOP`
Event = BatchDone | Note | Ready | Finished | Died | Aborted
Emit = Callable[[Event], None]


def batch_by_length(clips: Sequence[MissingClip], batch_size: int) -> list[ClipBatch]:
    """Batches of similar length.

    Clips are sorted within windows only, so that parts fill in the order of the manifest.
    """
    window = batch_size * WINDOW_BATCHES
    ordered = [
        clip
        for start in range(0, len(clips), window)
        for clip in sorted(clips[start : start + window], key=lambda c: c.utterance.duration or 0)
    ]
    starts = range(0, len(ordered), batch_size)
    return [ClipBatch(n, tuple(ordered[i : i + batch_size])) for n, i in enumerate(starts)]
