"""Audit of stores against audio: compare digests of files, and encode random clips again."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import load_clip
from rellm_cache.corpus.audio_source import audio_digest
from rellm_cache.corpus.clip_limits import ClipLimits, read_limits
from rellm_cache.corpus.manifest import Utterance, read_manifests
from rellm_cache.encoders.registry import build_encoder, encoding_machine, resolve
from rellm_cache.errors import AudioError, ConfigError, StoreError
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.maintenance.verify import find_stores
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import to_float16
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device

SCAN_THREADS = 4


@dataclass
class AudioReport:
    """Comparison of a manifest's audio with one store."""

    store: Path  # its folder
    equal: int = 0  # number of clips with unchanged audio
    changed: list[str] = field(default_factory=list)  # ids with changed audio
    unreadable: dict[str, str] = field(default_factory=dict)  # id → why its file could not be read
    absent: list[str] = field(default_factory=list)  # ids that are not in the store


def compare_audio(cache: Path, manifest: Path) -> list[AudioReport]:
    """Compare the digests of a manifest's audio with those in every store.

    Raises `ManifestError` or `StoreError` if the manifest or a store cannot be read.
    """
    utterances = read_manifests(manifest)
    stores = [store for store, _ in _encoder_stores(cache)]
    reports = [AudioReport(store.path) for store in stores]
    with (
        ThreadPoolExecutor(SCAN_THREADS) as pool,
        progress("Comparing audio", len(utterances), "clips") as tick,
    ):
        for utterance, found in zip(utterances, pool.map(_digest, utterances), strict=True):
            for store, report in zip(stores, reports, strict=True):
                _compare(utterance.id, found, store, report)
            tick()
    return reports


def _encoder_stores(cache: Path) -> list[tuple[FeatureStore, EncoderSpec]]:
    """Open all stores except teacher stores, each with its encoder spec."""
    stores = [FeatureStore(path) for path in find_stores(cache)]
    return [(store, store.spec) for store in stores if isinstance(store.spec, EncoderSpec)]


def _digest(utterance: Utterance) -> bytes | AudioError:
    try:
        return audio_digest(utterance).tobytes()
    except AudioError as error:
        return error


def _compare(name: str, found: bytes | AudioError, store: FeatureStore, out: AudioReport) -> None:
    if isinstance(found, AudioError):
        out.unreadable[name] = str(found)
    elif name not in store:
        out.absent.append(name)
    elif store.audio_sha256(name) != found:
        out.changed.append(name)
    else:
        out.equal += 1


@dataclass(frozen=True)
class RecomputeReport:
    """Comparison of stored frames with those that this machine computes."""

    store: Path  # its folder
    clips: list[str]  # ids that were encoded again
    skipped: dict[str, str]  # id → why it was not encoded
    largest: float  # largest absolute difference; 0 if nothing was compared
    mean: float  # mean absolute difference
    cosine: float  # lowest cosine similarity of a stored and a new frame
    writers: list[dict[str, str]]  # machines that made the stored frames, as far as recorded
    machine: dict[str, str]  # this machine
    reason: str = ""  # why nothing was compared; else empty


def recompute(
    cache: Path, manifest: Path, count: int, seed: int = 1, device: torch.device | None = None
) -> list[RecomputeReport]:
    """Encode `count` random clips of a manifest again for each store, and compare the frames.

    `seed` sets the random choice. Raises `ManifestError` or `StoreError` if the manifest or a
    store cannot be read, or a clip's number of frames differs.
    """
    device = device or default_device()
    limits = read_limits(manifest)
    utterances = {u.id: u for u in read_manifests(manifest)}
    reports = []
    for store, spec in _encoder_stores(cache):
        known = sorted(utterances.keys() & store.ids)
        random = np.random.default_rng(seed)
        chosen = [known[i] for i in sorted(random.permutation(len(known))[:count].tolist())]
        clips = [utterances[name] for name in chosen]
        reports.append(_recompute(store, spec, clips, limits, device))
    return reports


def _recompute(
    store: FeatureStore,
    spec: EncoderSpec,
    chosen: Sequence[Utterance],
    limits: ClipLimits,
    device: torch.device,
) -> RecomputeReport:
    machine = encoding_machine(spec, device)
    if not chosen:
        return _skipped(store, machine, "the store has no clip of the manifest")
    try:
        encoder = build_encoder(resolve(replace(spec, dtype="float16")), device)
    except ConfigError as error:
        return _skipped(store, machine, str(error))
    largest, total, values, cosine = 0.0, 0.0, 0, 1.0
    done: list[str] = []
    skipped: dict[str, str] = {}
    parts: set[Path] = set()
    with progress(f"Encoding again, {store.path.name}", len(chosen), "clips") as tick:
        for utterance in chosen:
            tick()
            try:
                clip = load_clip(utterance, limits)
                if clip.digest.tobytes() != store.audio_sha256(utterance.id):
                    raise AudioError(f"{utterance.audio}: its audio changed; run `rellm extract`")
            except AudioError as error:
                skipped[utterance.id] = str(error)
                continue
            (encoding,) = encoder.encode([clip.waveform])
            new = to_float16(encoding.frames, utterance.id, store.frame_shape).astype(np.float64)
            old = _values(store, utterance.id)
            if new.shape != old.shape:
                raise StoreError(
                    f"{store.path}: {utterance.id!r} has {len(old)} frames, but "
                    f"{len(new)} when encoded again; extract into a new cache"
                )
            difference = np.abs(new - old)
            largest = max(largest, float(difference.max()))
            total, values = total + float(difference.sum()), values + difference.size
            cosine = min(cosine, float(_cosines(new, old).min()))
            parts.add(store.part_of(utterance.id))
            done.append(utterance.id)
    mean, writers = total / max(values, 1), recorded_writers(sorted(parts))
    return RecomputeReport(store.path, done, skipped, largest, mean, cosine, writers, machine)


def _values(store: FeatureStore, name: str) -> np.ndarray:
    """Return (L, D) or (L, K, D) float64 frames of a clip, dequantized."""
    frames = store.verified_frames(name)
    if store.quantization is not None:
        return store.quantization.dequantize(frames).astype(np.float64)
    return frames.astype(np.float64)


def _skipped(store: FeatureStore, machine: dict[str, str], reason: str) -> RecomputeReport:
    return RecomputeReport(store.path, [], {}, 0.0, 0.0, 1.0, [], machine, reason)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return cosine similarities of two arrays of frames, (L, D) or of K layers (L, K, D)."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / np.maximum(norms, 1e-12))
