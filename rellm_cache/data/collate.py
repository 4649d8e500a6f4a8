"""Collation. In: examples and where their frames are. Out: one padded `Batch`, in given memory.

This is the only place that copies frames into a batch: training, evaluation and the answer to one
clip all come through `fill`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.copy_padded import copy_padded
from rellm_cache.data.ring_buffer import aligned_size
from rellm_cache.data.streams import FrameSource, QuantizationParams, StreamSet, align_length
from rellm_cache.store.quantization import Quantization

UNKNOWN_VAD = (float("nan"),) * 3


@dataclass(frozen=True)
class Layout:
    """Where the two streams of a batch lie in one piece of memory.

    Attributes:
        speech: (B, T, D) shape of the speech stream.
        emotion: (B, T, D') shape of the emotion stream, or None.
        emotion_start: first byte of the emotion stream.
        nbytes: of both.
    """

    speech: tuple[int, int, int]
    emotion: tuple[int, int, int] | None
    emotion_start: int
    nbytes: int


def layout(frames: StreamSet, clips: int, longest: int) -> Layout:
    """The layout of a batch of so many clips, the longest of so many frames."""
    speech = (clips, longest, frames.speech.frame_size)
    end = clips * longest * frames.speech.frame_size * frames.speech.dtype.itemsize
    if frames.emotion is None:
        return Layout(speech, None, end, end)
    start = aligned_size(end)
    size = clips * longest * frames.emotion.frame_size * frames.emotion.dtype.itemsize
    emotion = (clips, longest, frames.emotion.frame_size)
    return Layout(speech, emotion, start, start + size)


def fill(
    memory: NDArray[np.uint8],
    examples: Sequence[Example],
    lengths: Sequence[int],
    frames: StreamSet,
) -> Batch:
    """Copy the frames of some examples into `memory`, padded with zeros, and label them.

    Args:
        memory: of at least `layout(…).nbytes` bytes, all of which are overwritten.
        lengths: frames of each example.

    Raises:
        StoreError: a stream is damaged, or the streams differ by more than a few frames.
    """
    plan = layout(frames, len(examples), max(lengths))
    speech = _view(memory, 0, plan.speech, frames.speech.dtype)
    copy_padded(([frames.speech.frames(e.id)] for e in examples), lengths, speech)
    emotion = None
    if frames.emotion is not None and plan.emotion is not None:
        emotion = _view(memory, plan.emotion_start, plan.emotion, frames.emotion.dtype)
        read = frames.emotion.frames
        lined_up = (
            align_length(read(e.id), n, e.id) for e, n in zip(examples, lengths, strict=True)
        )
        copy_padded(lined_up, lengths, emotion)
    return Batch(
        ids=tuple(e.id for e in examples),
        speech=torch.from_numpy(speech),
        emotion=None if emotion is None else torch.from_numpy(emotion),
        # By way of numpy, which reads lists of numbers several times as fast as torch.
        frame_lengths=torch.from_numpy(np.array(lengths)),
        emotions=torch.from_numpy(np.array([e.emotion for e in examples])),
        vad=torch.from_numpy(np.array([e.vad or UNKNOWN_VAD for e in examples], np.float32)),
        targets=tuple(e.targets for e in examples),
        speech_steps=_steps(frames.speech.quantization),
        emotion_steps=None if frames.emotion is None else _steps(frames.emotion.quantization),
        teacher=None if frames.teacher is None else _lessons(examples, frames.teacher),
    )


def collate(examples: Sequence[Example], frames: StreamSet) -> Batch:
    """One padded batch of some examples, in memory of its own.

    Raises:
        StoreError: as `fill`, or a clip is absent.
    """
    lengths = frames.lengths([e.id for e in examples]).tolist()
    memory = np.empty(layout(frames, len(examples), max(lengths)).nbytes, np.uint8)
    return fill(memory, examples, lengths, frames)


def _view(
    memory: NDArray[np.uint8], start: int, shape: tuple[int, int, int], dtype: np.dtype
) -> np.ndarray:
    nbytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def _lessons(examples: Sequence[Example], teacher: FrameSource) -> torch.Tensor:
    """(N, 2 K + 1) float32: the teacher's rows of each example that has a response."""
    taught = [e.id for e in examples for t in e.targets if t.task == "response_lm"]
    nothing = np.zeros((0, teacher.frame_size), np.float32)
    return torch.from_numpy(np.concatenate([nothing, *map(teacher.frames, taught)]))


@lru_cache(maxsize=8)
def _steps(quantization: Quantization | None) -> QuantizationParams | None:
    """The steps of a stream, which all its batches share: nobody writes to them."""
    if quantization is None:
        return None
    return QuantizationParams(torch.tensor(quantization.scale), torch.tensor(quantization.mean))
