"""Streams of frames: the sources of an utterance's frames, aligned to the same length."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.errors import StoreError
from rellm_cache.store.quantization import Quantization

# Encoders' length rules differ by one or two frames at 50 Hz; more means different audio.
MAX_FRAME_GAP = 3


@dataclass(frozen=True)
class QuantizationParams:
    """What the int8 values of a stream stand for: q · scale + mean.

    Attributes:
        scale: (D,) float32.
        mean: (D,) float32.
    """

    scale: Tensor
    mean: Tensor

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(self, scale=self.scale.to(device), mean=self.mean.to(device))


class FrameSource(Protocol):
    """Where frames come from by id: a feature store, or encodings made a moment ago."""

    frame_size: int
    dtype: np.dtype

    @property
    def quantization(self) -> Quantization | None:
        """What int8 values stand for; None for float16."""
        ...

    def lengths(self, utterance_ids: Sequence[str], /) -> NDArray[np.int64]:
        """(N,) frames of each of many utterances."""
        ...

    def frames(self, utterance_id: str, /) -> np.ndarray:
        """(L, D) frames of one utterance, as stored."""
        ...

    def read_ahead(self, utterance_ids: Sequence[str], /) -> None:
        """Expect these utterances, one or more, to be read soon."""
        ...


class StreamSet:
    """The two streams of frames of a corpus, lined up frame by frame.

    Attributes:
        teacher: what the text LLM predicts along each response, where training learns from it.
    """

    def __init__(
        self,
        speech: FrameSource,
        emotion: FrameSource | None,
        teacher: FrameSource | None = None,
    ) -> None:
        self.speech = speech
        self.emotion = emotion
        self.teacher = teacher

    def lengths(self, utterance_ids: Sequence[str]) -> NDArray[np.int64]:
        """(N,) frames of each of many utterances: its speech frames."""
        return self.speech.lengths(utterance_ids)

    def length(self, utterance_id: str) -> int:
        """Frames of one utterance."""
        return int(self.lengths([utterance_id])[0])

    def emotion_frames(self, utterance_id: str) -> np.ndarray:
        """(L, D') emotion frames as stored, lined up with the speech stream's L.

        Raises:
            StoreError: the streams differ by more than `MAX_FRAME_GAP` frames.
        """
        if self.emotion is None:
            raise ValueError("no emotion stream")
        frames = self.emotion.frames(utterance_id)
        return np.concatenate(align_length(frames, self.length(utterance_id), utterance_id))

    def values(self, utterance_id: str) -> np.ndarray:
        """(L, D + D') float64: what the frames of both streams stand for, lined up."""
        streams = [_values(self.speech, self.speech.frames(utterance_id))]
        if self.emotion is not None:
            streams.append(_values(self.emotion, self.emotion_frames(utterance_id)))
        return np.concatenate(streams, axis=1)


def _values(source: FrameSource, frames: np.ndarray) -> np.ndarray:
    """What stored frames stand for, float64."""
    if source.quantization is not None:
        frames = source.quantization.dequantize(frames)
    return frames.astype(np.float64)


def align_length(frames: np.ndarray, length: int, utterance_id: str) -> list[np.ndarray]:
    """Emotion frames cut, or the last one repeated, to a length: pieces to be read end to end.

    Raises:
        StoreError: they differ from it by more than `MAX_FRAME_GAP` frames.
    """
    gap = length - len(frames)
    if abs(gap) > MAX_FRAME_GAP:
        raise StoreError(
            f"{utterance_id}: {length} speech frames but {len(frames)} emotion frames; they "
            f"may differ by {MAX_FRAME_GAP} at most, so they were made from different audio: "
            "run `rellm extract` again"
        )
    if gap > 0:
        return [frames, *[frames[-1:]] * gap]
    return [frames[:length] if gap else frames]
