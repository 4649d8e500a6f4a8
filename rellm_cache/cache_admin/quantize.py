"""Quantization of a float16 store to an int8 store, with a measure of the rounding error.

The first pass measures mean and range of each channel, the second writes the int8 frames. An
existing int8 store keeps its scale and mean, and only missing clips are written. So repeat the
call after a kill, or after a later `extract`.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo, store_path
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.quantization import LEVELS, ChannelStatistics, Quantization
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.writer import PART_BYTES, StoreWriter
from rellm_cache.utils.console import progress
from rellm_cache.utils.interrupts import Interrupts


@dataclass(frozen=True)
class QuantizeReport:
    """An int8 store and its rounding error."""

    path: Path  # of the int8 store
    written: int  # clips quantized by this call
    present: int  # clips that were in the store already
    bytes: int  # size of the int8 store's files
    relative_rms: float  # root mean square error divided by the root mean square of the frames
    # Index of the channel with the largest error relative to its deviation; of several layers that
    # of the first layer, then of the second, and so on.
    worst_channel: int
    worst_channel_rms: float  # that error divided by the channel's standard deviation
    clipped: float  # share of clipped values; above 0 only for clips added to an existing store

    def to_json(self) -> dict[str, Any]:
        """Return the object that `cache quantize --json` prints."""
        return {**vars(self), "path": str(self.path)}


def quantize(source: Path, part_bytes: int = PART_BYTES) -> QuantizeReport:
    """Create or update the int8 store of a float16 store, in the same cache.

    A part is committed at `part_bytes` of frames. Raises `StoreError` if `source` is not a float16
    store, is empty or damaged, or writing failed.
    """
    sync_mirror(source.parent)
    store = FeatureStore(source)
    if not isinstance(store.spec, EncoderSpec) or store.spec.dtype != "float16":
        raise StoreError(f"{source}: holds {store.spec.dtype} frames; expected a float16 store")
    if not len(store):
        raise StoreError(f"{source}: has no clips; fill it with `rellm extract`")
    spec = dataclasses.replace(store.spec, dtype="int8")
    path = store_path(source.parent, spec)
    before = FeatureStore(path) if path.exists() else None
    missing = [i for i in store.ids if before is None or not _is_current(i, store, before)]
    quantization = before.quantization if before is not None and before.parts else None
    if quantization is None:
        quantization = _measure(store)
    info = StoreInfo(spec, store.frame_size, store.licence)
    writers = recorded_writers(part.path for part in store.parts)
    with (
        Interrupts() as interrupts,
        progress("Quantizing", len(missing), "clips") as tick,
        StoreWriter(
            source.parent, info, quantization, writers=writers, part_bytes=part_bytes
        ) as out,
    ):
        for clip in missing:
            digest = np.frombuffer(store.audio_sha256(clip), np.uint8)
            out.add(clip, digest, store.verified_frames(clip), store.vad(clip))
            tick()
        interrupts.finishing()
    made = FeatureStore(path)
    relative_rms, by_channel, clipped = _compare(store, made, quantization)
    return QuantizeReport(
        path=path,
        written=len(missing),
        present=len(store) - len(missing),
        bytes=made.nbytes,
        relative_rms=relative_rms,
        worst_channel=int(by_channel.argmax()),
        worst_channel_rms=float(by_channel.max()),
        clipped=clipped,
    )


def _is_current(clip: str, store: FeatureStore, made: FeatureStore) -> bool:
    return clip in made and made.audio_sha256(clip) == store.audio_sha256(clip)


def _measure(store: FeatureStore) -> Quantization:
    statistics = ChannelStatistics()
    with progress("Measuring channels", len(store), "clips") as tick:
        for clip in store.ids:
            statistics.add(store.frames(clip))
            tick()
    return statistics.quantization()


def _compare(
    store: FeatureStore, made: FeatureStore, quantization: Quantization
) -> tuple[float, NDArray[np.float64], float]:
    """Read every int8 clip from disk and compare it with its float16 frames.

    Returns:
        Relative RMS error; (D,) error of each channel divided by its standard deviation, 0 if it is
        constant, of K layers (K, D); share of clipped values.
    """
    count = clipped = 0
    squares, centred, errors, total = (np.zeros(store.frame_shape) for _ in range(4))
    reach = quantization.scale * (LEVELS + 0.5)
    with progress("Comparing", len(store), "clips") as tick:
        for clip in store.ids:
            frames = store.frames(clip).astype(np.float32)
            distance = frames - quantization.mean
            rounded = quantization.dequantize(made.frames(clip))
            errors += np.square(rounded - frames).sum(0, np.float64)
            squares += np.square(frames).sum(0, np.float64)
            centred += np.square(distance).sum(0, np.float64)
            total += distance.sum(0, np.float64)
            clipped += int((np.abs(distance) > reach).sum())
            count += len(frames)
            tick()
    variance = centred / count - np.square(total / count)
    deviation = np.sqrt(np.maximum(variance, 0))
    by_channel = np.sqrt(errors / count) / np.where(deviation > 0, deviation, np.inf)
    relative_rms = float(np.sqrt(errors.sum() / max(squares.sum(), np.finfo(float).tiny)))
    return relative_rms, by_channel, clipped / (count * math.prod(store.frame_shape))
