"""Missing clips: compares a manifest with the feature stores.

A clip is present when a committed part holds its id with the digest of its audio. This module reads
audio files only for ids that a store holds. The other digests are computed at decoding.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio_source import audio_digest
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import AudioError
from rellm_cache.extraction.messages import ClipBatch, ClipsEncoded, Failure, MissingClip
from rellm_cache.store.format import store_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.utils.console import progress

DIGEST_THREADS = 4


class TargetStore:
    """The store of one encoder, and the result of every clip in this extraction."""

    def __init__(self, spec: EncoderSpec, cache: Path) -> None:
        self.spec = spec  # weights resolved
        self.fingerprint = spec.fingerprint
        self.path = store_path(cache, spec)  # may not exist yet
        self.changed: set[str] = set()  # ids that the store held with other audio
        self.encoded: dict[str, float] = {}  # id → seconds of audio, encoded in this extraction
        self.failed: dict[str, Failure] = {}  # by clip id
        self.encoder_seconds = 0.0  # of forward passes, summed over all workers
        self.store: FeatureStore | None = None
        self.refresh()

    def refresh(self) -> None:
        """Open the store again to see parts committed since."""
        self.store = FeatureStore(self.path) if self.path.exists() else None

    def has_id(self, utterance_id: str) -> bool:
        """Whether the store has frames of this id, made from any audio."""
        return self.store is not None and utterance_id in self.store

    def has_audio(self, utterance_id: str, digest: np.ndarray) -> bool:
        """Whether the store's frames of this id were made from audio with this digest."""
        if self.store is None or not self.has_id(utterance_id):
            return False
        return self.store.audio_sha256(utterance_id) == digest.tobytes()

    def seconds(self, utterance_id: str) -> float:
        """Duration of a clip, from the number of its stored frames."""
        return 0.0 if self.store is None else self.store.length(utterance_id) / self.spec.frame_rate

    def record(self, batch: ClipBatch, done: ClipsEncoded) -> None:
        """Add the results of a batch."""
        failures = done.failures.get(self.fingerprint, [])
        self.failed.update((failure.id, failure) for failure in failures)
        for clip in batch.items:
            key = clip.utterance.id
            if self.fingerprint in clip.missing_from and key not in self.failed:
                self.encoded[key] = done.seconds[key]
        self.encoder_seconds += done.encoder_seconds.get(self.fingerprint, 0.0)


def find_missing(
    utterances: Sequence[Utterance], targets: Sequence[TargetStore]
) -> list[MissingClip]:
    """Clips that at least one store lacks. An unreadable file is recorded as failed in each."""
    everywhere = frozenset(target.fingerprint for target in targets)
    stored = [target for target in targets if target.store is not None]
    held = [u for u in utterances if any(t.has_id(u.id) for t in stored)] if stored else []
    digests = read_digests(held)
    missing = []
    for utterance in utterances:
        digest = digests.get(utterance.id)
        if digest is None:
            missing.append(MissingClip(utterance, everywhere))
            continue
        if isinstance(digest, AudioError):
            for target in targets:
                failure = Failure(utterance.id, utterance.audio, str(digest))
                target.failed[utterance.id] = failure
            continue
        lacking = [t for t in targets if not t.has_audio(utterance.id, digest)]
        for target in lacking:
            if target.has_id(utterance.id):
                target.changed.add(utterance.id)
        if lacking:
            missing.append(MissingClip(utterance, frozenset(t.fingerprint for t in lacking)))
    return missing


def find_uncommitted(
    clips: Iterable[MissingClip], targets: Sequence[TargetStore]
) -> list[MissingClip]:
    """Clips that a dead worker did not commit and did not report as failed.

    Opens the target stores again and corrects their records of these clips.
    """
    for root in {target.path.parent for target in targets}:
        sync_mirror(root)
    for target in targets:
        target.refresh()
    uncommitted = []
    for clip in clips:
        utterance = clip.utterance
        still_missing = set()
        for target in targets:
            if target.fingerprint not in clip.missing_from or utterance.id in target.failed:
                continue
            digest = try_digest(utterance) if target.has_id(utterance.id) else None
            if isinstance(digest, np.ndarray) and target.has_audio(utterance.id, digest):
                target.encoded.setdefault(utterance.id, target.seconds(utterance.id))
            else:
                target.encoded.pop(utterance.id, None)
                still_missing.add(target.fingerprint)
        if still_missing:
            uncommitted.append(MissingClip(utterance, frozenset(still_missing)))
    return uncommitted


def read_digests(utterances: Sequence[Utterance]) -> dict[str, np.ndarray | AudioError]:
    """Clip id → digest of its audio (32,) uint8, or the error; reads several files at a time."""
    with (
        ThreadPoolExecutor(DIGEST_THREADS) as pool,
        progress("Checking audio", len(utterances), "clips") as tick,
    ):
        digests = {}
        for utterance, digest in zip(utterances, pool.map(try_digest, utterances), strict=True):
            digests[utterance.id] = digest
            tick()
    return digests


def try_digest(utterance: Utterance) -> np.ndarray | AudioError:
    """(32,) uint8 digest of a clip's audio, or the error if its file cannot be read."""
    try:
        return audio_digest(utterance)
    except AudioError as error:
        return error
