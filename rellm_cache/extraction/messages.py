"""Messages of an extraction: the clips that a worker is sent, and what it reports of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.workers.messages import Batch, BatchDone

WINDOW_BATCHES = 16  # clips are sorted by length within this many batches


@dataclass(frozen=True)
class MissingClip:
    """A clip, and the fingerprints of the stores that lack it."""

    utterance: Utterance
    missing_from: frozenset[str]

    @property
    def id(self) -> str:
        """Id of the utterance."""
        return self.utterance.id


ClipBatch = Batch[MissingClip]  # clips of similar length, encoded together


@dataclass(frozen=True)
class Failure:
    """A clip that could not be encoded."""

    id: str
    audio: str
    reason: str


@dataclass(frozen=True)
class ClipsEncoded(BatchDone):
    """A batch of clips is in the worker's open part, or already committed."""

    seconds: dict[str, float]  # clip id → seconds of audio, decoded clips only
    failures: dict[str, list[Failure]]  # fingerprint of a store → clips that are not stored there
    encoder_seconds: dict[str, float]  # fingerprint → seconds of forward passes


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
    return [Batch(n, tuple(ordered[i : i + batch_size])) for n, i in enumerate(starts)]
