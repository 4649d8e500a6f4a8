"""extract. In: a manifest and a recipe. Out: every clip's frames in the cache, made once.

A clip is done when its id and the digest of its audio are in a committed part of this encoder's
store. Everything else is decoded once, encoded and written; what fails is listed, never stored.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from rellm_cache.ahead import one_ahead
from rellm_cache.config import EncoderSpec, Recipe
from rellm_cache.corpus.audio import Clip, audio_digest, load_clip, read_bytes
from rellm_cache.corpus.manifest import Utterance, read_lines, read_manifests, write_lines
from rellm_cache.devices import default_device
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.encoders.registry import build_encoder, describe_machine, resolve
from rellm_cache.errors import AudioError, FrameError
from rellm_cache.progress import progress
from rellm_cache.store.layout import StoreInfo, failures_path, store_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

WINDOW_BATCHES = 16  # clips are sorted by length within so many batches
SCAN_THREADS = 4


@dataclass(frozen=True)
class StreamReport:
    """What happened to one encoder's store.

    Attributes:
        path: of the store.
        encoded: clips written now.
        present: clips that were there already.
        failed: clips that could not be encoded, listed in `failures_path(path)`.
        hours: of audio encoded now.
        seconds: the encoder itself took.
    """

    path: Path
    encoded: int
    present: int
    failed: int
    hours: float
    seconds: float


@dataclass(frozen=True)
class Failure:
    """A clip that could not be encoded."""

    id: str
    audio: str
    reason: str


class _Stream:
    """One encoder of a recipe with its store while an extraction runs."""

    def __init__(self, spec: EncoderSpec, cache: Path) -> None:
        self.spec = resolve(spec)
        self.path = store_path(cache, self.spec)
        self.store = FeatureStore(self.path) if self.path.exists() else None
        self.encoder: FrameEncoder | None = None
        self.writer: StoreWriter | None = None
        self.missing: set[str] = set()
        self.failed: list[Failure] = []
        self.encoded = 0
        self.audio_seconds = 0.0
        self.encoder_seconds = 0.0

    def holds(self, utterance_id: str, digest: np.ndarray) -> bool:
        store = self.store
        if store is None or utterance_id not in store:
            return False
        return store.audio_sha256(utterance_id) == digest.tobytes()

    def open(self, cache: Path, device: torch.device, stack: ExitStack) -> None:
        """Load the encoder and start writing, if anything is missing."""
        if self.missing:
            self.encoder = build_encoder(self.spec, device)
            info = StoreInfo(self.spec, self.encoder.frame_size, self.encoder.licence)
            machine = describe_machine(self.spec, device)
            self.writer = stack.enter_context(StoreWriter(cache, info, writers=[machine]))

    def encode(self, clips: Sequence[tuple[Utterance, Clip]]) -> None:
        """Encode and store those of the clips that this stream misses."""
        mine = [(u, c) for u, c in clips if u.id in self.missing]
        if not mine or self.encoder is None or self.writer is None:
            return
        start = monotonic()
        encodings = self.encoder.encode([c.waveform for _, c in mine])
        self.encoder_seconds += monotonic() - start
        for (utterance, clip), encoding in zip(mine, encodings, strict=True):
            try:
                self.writer.add(utterance.id, clip.digest, encoding.frames, encoding.vad)
            except FrameError as error:
                self.failed.append(Failure(utterance.id, utterance.audio, str(error)))
                continue
            self.encoded += 1
            self.audio_seconds += clip.seconds

    def report(self, total: int) -> StreamReport:
        return StreamReport(
            path=self.path,
            encoded=self.encoded,
            present=total - self.encoded - len(self.failed),
            failed=len(self.failed),
            hours=self.audio_seconds / 3600,
            seconds=self.encoder_seconds,
        )


def extract(
    manifest: Path,
    recipe: Recipe,
    cache: Path,
    batch_size: int = 16,
    device: torch.device | None = None,
) -> list[StreamReport]:
    """Encode every clip of a manifest that the cache does not hold yet.

    Raises:
        ManifestError, ConfigError: the manifest or a model cannot be used.
        StoreError: writing failed; the stores keep every part committed before.
    """
    device = device or default_device()
    utterances = read_manifests(manifest)
    specs = [s for s in (recipe.encoders.speech, recipe.encoders.emotion) if s is not None]
    streams = [_Stream(spec, cache) for spec in specs]
    pending = _find_missing(utterances, streams)
    batches = _length_sorted(pending, batch_size)
    with ExitStack() as stack:
        for stream in streams:
            stream.open(cache, device, stack)
        tick = stack.enter_context(progress("Encoding", len(pending), "clips"))
        hours = 0.0
        for batch, results in zip(batches, one_ahead(_load_batch, batches), strict=True):
            clips = _keep_loaded(batch, results, streams)
            for stream in streams:
                stream.encode(clips)
            hours += sum(clip.seconds for _, clip in clips) / 3600
            tick(len(batch), f"{hours:.2f} h of audio")
    for stream in streams:
        _record_failures(stream, utterances)
    return [stream.report(len(utterances)) for stream in streams]


def _find_missing(utterances: Sequence[Utterance], streams: list[_Stream]) -> list[Utterance]:
    """Utterances that some stream lacks, by id and audio digest; unreadable files are failures."""
    pending = []
    with (
        ThreadPoolExecutor(SCAN_THREADS) as pool,
        progress("Checking audio", len(utterances), "clips") as tick,
    ):
        for utterance, digest in zip(utterances, pool.map(_try_digest, utterances), strict=True):
            tick()
            if isinstance(digest, AudioError):
                for stream in streams:
                    stream.failed.append(Failure(utterance.id, utterance.audio, str(digest)))
                continue
            lacking = [s for s in streams if not s.holds(utterance.id, digest)]
            for stream in lacking:
                stream.missing.add(utterance.id)
            if lacking:
                pending.append(utterance)
    return pending


def _try_digest(utterance: Utterance) -> np.ndarray | AudioError:
    try:
        return audio_digest(read_bytes(utterance.audio), utterance.segment)
    except AudioError as error:
        return error


def _length_sorted(utterances: list[Utterance], batch_size: int) -> list[list[Utterance]]:
    """Batches of similar length, in windows, so that a kill still leaves whole early parts."""
    window = batch_size * WINDOW_BATCHES
    ordered = [
        u
        for start in range(0, len(utterances), window)
        for u in sorted(utterances[start : start + window], key=lambda u: u.duration or 0)
    ]
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def _load_batch(batch: Sequence[Utterance]) -> list[Clip | AudioError]:
    results: list[Clip | AudioError] = []
    for utterance in batch:
        try:
            results.append(load_clip(utterance))
        except AudioError as error:
            results.append(error)
    return results


def _keep_loaded(
    batch: Sequence[Utterance], results: Iterable[Clip | AudioError], streams: list[_Stream]
) -> list[tuple[Utterance, Clip]]:
    clips = []
    for utterance, result in zip(batch, results, strict=True):
        if isinstance(result, Clip):
            clips.append((utterance, result))
            continue
        for stream in streams:
            if utterance.id in stream.missing:
                stream.failed.append(Failure(utterance.id, utterance.audio, str(result)))
    return clips


def _record_failures(stream: _Stream, utterances: Sequence[Utterance]) -> None:
    """Bring the list beside the store up to date for the clips of this manifest."""
    path = failures_path(stream.path)
    seen = {u.id for u in utterances}
    rows = [row for _, row in read_lines(path) if row["id"] not in seen] if path.exists() else []
    rows += [vars(failure) for failure in stream.failed]
    if rows:
        write_lines(path, rows)
    else:
        path.unlink(missing_ok=True)
