"""Streams of frames: one source of frames for each encoder, aligned to the same length."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.config.schema import EncoderConfig
from rellm_cache.config.specs import EncoderSpec, StoredSpec
from rellm_cache.errors import StoreError
from rellm_cache.store.matching import find_store
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.reader import FeatureStore

# Encoders round lengths differently, by one or two frames. More means different audio.
MAX_FRAME_GAP = 3


@dataclass(frozen=True)
class QuantizationParams:
    """Scale and mean (D,) float32 of an int8 stream: a stored value q means q · scale + mean.

    D counts the values of all its layers.
    """

    scale: Tensor
    mean: Tensor

    def to(self, device: str | torch.device) -> Self:
        """Copy scale and mean to a device."""
        return replace(self, scale=self.scale.to(device), mean=self.mean.to(device))


class FrameSource(Protocol):
    """Frames by utterance id: from a feature store, quantized or not, or encoded live.

    Attributes:
        spec: encoder and settings that made the frames; `spec.layer_numbers` are its K layers, if
            it has several.
        frame_size: D, values in a frame of one layer.
        dtype: of stored values: float16, int8, or a teacher's float32.
        licence: of the model that made the frames.
    """

    spec: StoredSpec
    frame_size: int
    dtype: np.dtype
    licence: str

    @property
    def quantization(self) -> Quantization | None:
        """Scale and mean of int8 values; None for floats."""

    def require(self, utterance_ids: Iterable[str], command: str, /) -> None:
        """Raise `StoreError` if an id is missing; the message names `command` as the fix."""

    def audio_sha256(self, utterance_id: str, /) -> bytes | None:
        """Digest of the audio that the frames were made from; None for frames encoded live."""

    def lengths(self, utterance_ids: Sequence[str], /) -> NDArray[np.int64]:
        """(N,) number of frames of each utterance."""

    def frames(self, utterance_id: str, /) -> np.ndarray:
        """(L, D) frames of one utterance, as stored; of K layers (L, K, D)."""

    def layer_frames(self, utterance_id: str, /) -> Sequence[np.ndarray]:
        """(L, D) frames of one utterance for each layer, as stored."""

    def read_ahead(self, utterance_ids: Sequence[str], /) -> None:
        """Prepare for reading these utterances, one or more, soon."""


@dataclass(frozen=True)
class StreamSet:
    """The streams of a recipe by name. All streams are aligned to the lengths of the first one.

    Streams of another frame rate are resampled to that of the first one, by the nearest frame.

    Attributes:
        sources: source of the frames of each stream, in the recipe's order.
        pooled: streams that the adapter reads as one mean for each utterance.
        teacher: predictions of a text LLM at each token of a response, if training uses them.
    """

    sources: Mapping[str, FrameSource]
    teacher: FrameSource | None = None
    pooled: frozenset[str] = frozenset()

    @property
    def base(self) -> FrameSource:
        """The first stream."""
        return next(iter(self.sources.values()))

    @property
    def sizes(self) -> dict[str, int]:
        """Values in a frame of each stream: D, or K · D of K layers."""
        return {
            name: source.frame_size * max(1, len(self.layers[name]))
            for name, source in self.sources.items()
        }

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the layers in each stream's frames, in their order; empty for one layer."""
        return {name: source.spec.layer_numbers for name, source in self.sources.items()}

    def require(self, utterance_ids: Sequence[str], command: str) -> None:
        """Raise `StoreError` unless every utterance is in every stream."""
        for source in self.sources.values():
            source.require(utterance_ids, command)

    def audio_sha256(self, utterance_id: str) -> str | None:
        """Digest (hex) of the audio of the first stream; None for frames encoded live."""
        found = self.base.audio_sha256(utterance_id)
        return None if found is None else found.hex()

    def read_ahead(self, utterance_ids: Sequence[str]) -> None:
        """Prepare for reading these utterances, one or more, soon."""
        for source in self.sources.values():
            source.read_ahead(utterance_ids)

    def lengths(self, utterance_ids: Sequence[str]) -> NDArray[np.int64]:
        """(N,) number of frames of each utterance, the same in all streams after alignment."""
        return self.base.lengths(utterance_ids)

    def pieces(self, stream: str, utterance_id: str, length: int) -> list[list[np.ndarray]]:
        """Frames of each layer as stored, aligned to `length`: arrays (L, D) to concatenate.

        Raises:
            StoreError: the streams differ by more than `MAX_FRAME_GAP` frames.
        """
        layers = self._own_frames(stream, utterance_id, length)
        step = self._step(stream)
        if step == 1:
            return [align_length(frames, length) for frames in layers]
        return [[resample(frames, length, step)] for frames in layers]

    def mean(self, stream: str, utterance_id: str, length: int) -> NDArray[np.float32]:
        """(1, D) float32 mean of the stream's own frames of an utterance, before alignment.

        The means of several layers follow each other.

        Raises:
            StoreError: as `pieces`; `length` is the one to align to.
        """
        layers = self._own_frames(stream, utterance_id, length)
        means = [frames.mean(axis=0, keepdims=True, dtype=np.float64) for frames in layers]
        mean: NDArray[np.float64] = np.concatenate(means, axis=1)
        if (quantization := self.sources[stream].quantization) is not None:
            mean = mean * quantization.scale.reshape(-1) + quantization.mean.reshape(-1)
        return mean.astype(np.float32)

    def _step(self, stream: str) -> float:
        """Frames of a stream for each frame of the first stream."""
        return self.sources[stream].spec.frame_rate / self.base.spec.frame_rate

    def _own_frames(self, stream: str, utterance_id: str, length: int) -> Sequence[np.ndarray]:
        frames = self.sources[stream].layer_frames(utterance_id)
        if abs(length - len(frames[0]) / self._step(stream)) > MAX_FRAME_GAP:
            raise StoreError(
                f"{utterance_id}: {length} {next(iter(self.sources))} frames but {len(frames[0])} "
                f"{stream} frames; they may differ by {MAX_FRAME_GAP} at most, so they were made "
                "from different audio: run `rellm extract` again"
            )
        return frames

    def values(self, utterance_id: str) -> NDArray[np.float64]:
        """(L, D) float64 values of all streams, concatenated along D; int8 is dequantized."""
        length = int(self.lengths([utterance_id])[0])
        values = []
        for name, source in self.sources.items():
            layers = map(np.concatenate, self.pieces(name, utterance_id, length))
            frames = np.stack([*layers], axis=1)  # (L, K, D)
            if source.quantization is not None:
                frames = source.quantization.dequantize(frames)
            values.append(frames.reshape(length, -1).astype(np.float64))
        return np.concatenate(values, axis=1)


def align_length(frames: np.ndarray, length: int) -> list[np.ndarray]:
    """Cut frames (L, D) to `length`, or repeat the last frame: arrays to concatenate."""
    gap = length - len(frames)
    if gap > 0:
        return [frames, *[frames[-1:]] * gap]
    return [frames[:length] if gap else frames]


def resample(frames: np.ndarray, length: int, step: float) -> np.ndarray:
    """Frames (L, D) of another rate as (`length`, D): row i is frame floor((i + 0.5) · `step`)."""
    nearest = ((np.arange(length) + 0.5) * step).astype(np.int64)
    return frames[np.minimum(nearest, len(frames) - 1)]


def open_streams(
    encoders: Mapping[str, EncoderSpec],
    cache: Path,
    open_store: Callable[[Path], FeatureStore] = FeatureStore,
) -> StreamSet:
    """Open the store of each encoder under a cache root; `StoreError` if one is missing."""
    stores = {name: open_store(find_store(cache, e)).select_for(e) for name, e in encoders.items()}
    return StreamSet(stores, pooled=pooled_streams(encoders))


def pooled_streams(encoders: Mapping[str, EncoderSpec]) -> frozenset[str]:
    """Streams of a recipe that the adapter reads as one mean for each utterance."""
    configs = {name: e for name, e in encoders.items() if isinstance(e, EncoderConfig)}
    return frozenset(name for name, e in configs.items() if e.pooling == "utterance")


def frame_statistics(
    streams: StreamSet, ids: Sequence[str], transform: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) float32 of all frames, over all streams together.

    Args:
        transform: applied to the frames of each utterance before; (L, sum of D) -> (L, any D).
    """
    total = 0
    mean = squares = torch.zeros((), dtype=torch.float64)
    for utterance_id in ids:
        values = transform(torch.from_numpy(streams.values(utterance_id)))  # (L, D)
        total += len(values)
        mean = mean + values.sum(0)
        squares = squares + values.square().sum(0)
    average = mean / total
    variance = squares / total - average.square()
    return average.float(), variance.clamp(min=0).sqrt().float()
