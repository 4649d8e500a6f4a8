"""What is there and what is missing. In: utterances and stores. Out: the work that is left.

A clip is done when its id and the digest of its audio are in a committed part. Audio is read here
only for ids that a store holds: of the others the digest is taken when they are decoded.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import audio_digest, read_bytes
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.encoders.base import FRAMES_PER_SECOND
from rellm_cache.errors import AudioError
from rellm_cache.extraction.messages import Batch, BatchDone, Failure, Work
from rellm_cache.store.format import store_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.utils.console import progress

SCAN_THREADS = 4


class Target:
    """The store of one encoder, and what has become of the clips of this extraction.

    Attributes:
        spec: with its weights resolved.
        path: of the store, made or not.
        changed: ids that the store held with other audio.
        encoded: seconds of audio by id of the clips written now.
        failed: clips that could not be encoded, by id.
        encoder_seconds: of forward passes, over all workers.
    """

    def __init__(self, spec: EncoderSpec, cache: Path) -> None:
        self.spec = spec
        self.fingerprint = spec.fingerprint
        self.path = store_path(cache, spec)
        self.changed: set[str] = set()
        self.encoded: dict[str, float] = {}
        self.failed: dict[str, Failure] = {}
        self.encoder_seconds = 0.0
        self.store: FeatureStore | None = None
        self.refresh()

    def refresh(self) -> None:
        """Look again at what is committed."""
        self.store = FeatureStore(self.path) if self.path.exists() else None

    def knows(self, utterance_id: str) -> bool:
        """Whether the store has frames of this id, of whichever audio."""
        return self.store is not None and utterance_id in self.store

    def holds(self, utterance_id: str, digest: np.ndarray) -> bool:
        """Whether the store's frames of this id were made from this audio."""
        if self.store is None or not self.knows(utterance_id):
            return False
        return self.store.audio_sha256(utterance_id) == digest.tobytes()

    def seconds(self, utterance_id: str) -> float:
        """How long a clip lasts, by its stored frames."""
        return 0.0 if self.store is None else self.store.length(utterance_id) / FRAMES_PER_SECOND

    def take(self, batch: Batch, done: BatchDone) -> None:
        """Note what became of the clips of a batch."""
        failures = done.failures.get(self.fingerprint, [])
        self.failed.update((failure.id, failure) for failure in failures)
        for work in batch.work:
            key = work.utterance.id
            if self.fingerprint in work.lacking and key not in self.failed:
                self.encoded[key] = done.seconds[key]
        self.encoder_seconds += done.encoder_seconds.get(self.fingerprint, 0.0)


def find_missing(utterances: Sequence[Utterance], targets: Sequence[Target]) -> list[Work]:
    """The clips that some store lacks. Files that cannot be read are failures of every target."""
    everywhere = frozenset(target.fingerprint for target in targets)
    known = [u for u in utterances if any(t.knows(u.id) for t in targets)]
    digests = read_digests(known)
    work = []
    for utterance in utterances:
        digest = digests.get(utterance.id)
        if digest is None:
            work.append(Work(utterance, everywhere))
            continue
        if isinstance(digest, AudioError):
            for target in targets:
                failure = Failure(utterance.id, utterance.audio, str(digest))
                target.failed[utterance.id] = failure
            continue
        lacking = [t for t in targets if not t.holds(utterance.id, digest)]
        for target in lacking:
            if target.knows(utterance.id):
                target.changed.add(utterance.id)
        if lacking:
            work.append(Work(utterance, frozenset(t.fingerprint for t in lacking)))
    return work


def find_lost(work: Iterable[Work], targets: Sequence[Target]) -> list[Work]:
    """Of the clips that a dead worker had, those it has neither committed nor found to fail.

    Targets are looked at again; what they say of the clips is brought up to date.
    """
    for root in {target.path.parent for target in targets}:
        sync_mirror(root)
    for target in targets:
        target.refresh()
    lost = []
    for item in work:
        clip = item.utterance
        left = set()
        for target in targets:
            if target.fingerprint not in item.lacking or clip.id in target.failed:
                continue
            digest = try_digest(clip) if target.knows(clip.id) else None
            if isinstance(digest, np.ndarray) and target.holds(clip.id, digest):
                target.encoded.setdefault(clip.id, target.seconds(clip.id))
            else:
                target.encoded.pop(clip.id, None)
                left.add(target.fingerprint)
        if left:
            lost.append(Work(clip, frozenset(left)))
    return lost


def read_digests(utterances: Sequence[Utterance]) -> dict[str, np.ndarray | AudioError]:
    """Id → `try_digest` of every clip, several files read at a time."""
    with (
        ThreadPoolExecutor(SCAN_THREADS) as pool,
        progress("Checking audio", len(utterances), "clips") as tick,
    ):
        digests = {}
        for utterance, digest in zip(utterances, pool.map(try_digest, utterances), strict=True):
            digests[utterance.id] = digest
            tick()
    return digests


def try_digest(utterance: Utterance) -> np.ndarray | AudioError:
    """(32,) uint8 digest of a clip's audio, or why it cannot be read."""
    try:
        return audio_digest(read_bytes(utterance.audio), utterance.segment)
    except AudioError as error:
        return error
