"""cache quantize. In: a float16 store. Out: the same clips in eight bits, and how far off they are.

Two passes: the mean and reach of every channel, then frames in steps of that size. Killed at any
moment, the same command goes on: parts that were committed keep their steps, and only clips that
are not there yet are written. So it also brings an int8 store up to date after another `extract`.
"""

import dataclasses
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
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import progress
from rellm_cache.utils.interrupts import Interrupts


@dataclass(frozen=True)
class QuantizeReport:
    """An int8 store and its distance from the float16 store it was made from.

    Attributes:
        path: of the int8 store.
        written: clips quantised now.
        present: clips that were there already.
        bytes: of the int8 store's files.
        relative_rms: root mean square error over the root mean square of the frames, of all clips.
        worst_channel: index of the channel with the largest error for its standard deviation.
        worst_channel_rms: that error over that deviation.
        clipped: share of values beyond the steps; above 0 only for clips added to an older store.
    """

    path: Path
    written: int
    present: int
    bytes: int
    relative_rms: float
    worst_channel: int
    worst_channel_rms: float
    clipped: float

    def to_json(self) -> dict[str, Any]:
        """As `cache quantize --json` prints it."""
        return {**vars(self), "path": str(self.path)}


def quantize(source: Path) -> QuantizeReport:
    """Make the int8 store of a float16 store, beside it, or bring it up to date.

    Raises:
        StoreError: `source` is no float16 store, is empty or damaged, or writing failed.
    """
    sync_mirror(source.parent)
    store = FeatureStore(source)
    if not isinstance(store.spec, EncoderSpec) or store.spec.dtype != "float16":
        raise StoreError(f"{source}: holds {store.spec.dtype} frames; expected a float16 store")
    if not len(store):
        raise StoreError(f"{source}: holds no clips; fill it with `rellm extract`")
    spec = dataclasses.replace(store.spec, dtype="int8")
    path = store_path(source.parent, spec)
    before = FeatureStore(path) if path.exists() else None
    missing = [i for i in store.ids if before is None or not _is_current(i, store, before)]
    steps = before.quantization if before is not None and before.parts else None
    if steps is None:
        steps = _measure(store)
    info = StoreInfo(spec, store.frame_size, store.licence)
    writers = recorded_writers(part.path for part in store.parts)
    with (
        Interrupts() as interrupts,
        progress("Quantising", len(missing), "clips") as tick,
        StoreWriter(source.parent, info, steps, writers=writers) as out,
    ):
        for clip in missing:
            digest = np.frombuffer(store.audio_sha256(clip), np.uint8)
            out.add(clip, digest, store.verified_frames(clip), store.vad(clip))
            tick()
        interrupts.finishing()
    made = FeatureStore(path)
    error = _compare(store, made, steps)
    return QuantizeReport(
        path=path,
        written=len(missing),
        present=len(store) - len(missing),
        bytes=made.nbytes,
        relative_rms=error.relative_rms,
        worst_channel=int(error.by_channel.argmax()),
        worst_channel_rms=float(error.by_channel.max()),
        clipped=error.clipped,
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


@dataclass(frozen=True)
class _Error:
    """Distance of int8 frames from float16 ones.

    Attributes:
        relative_rms: over all values.
        by_channel: (D,) error over the channel's standard deviation; 0 where it is constant.
        clipped: share of values beyond the steps.
    """

    relative_rms: float
    by_channel: NDArray[np.float64]
    clipped: float


def _compare(store: FeatureStore, made: FeatureStore, steps: Quantization) -> _Error:
    """Read every clip back from disk and compare it with what it was made from."""
    count = clipped = 0
    squares, centred, errors, total = (np.zeros(store.frame_size) for _ in range(4))
    reach = steps.scale * (LEVELS + 0.5)
    with progress("Comparing", len(store), "clips") as tick:
        for clip in store.ids:
            frames = store.frames(clip).astype(np.float32)
            distance = frames - steps.mean
            errors += np.square(steps.dequantize(made.frames(clip)) - frames).sum(0, np.float64)
            squares += np.square(frames).sum(0, np.float64)
            centred += np.square(distance).sum(0, np.float64)
            total += distance.sum(0, np.float64)
            clipped += int((np.abs(distance) > reach).sum())
            count += len(frames)
            tick()
    variance = centred / count - np.square(total / count)
    deviation = np.sqrt(np.maximum(variance, 0))
    by_channel = np.sqrt(errors / count) / np.where(deviation > 0, deviation, np.inf)
    return _Error(
        relative_rms=float(np.sqrt(errors.sum() / max(squares.sum(), np.finfo(float).tiny))),
        by_channel=by_channel,
        clipped=clipped / (count * store.frame_size),
    )
