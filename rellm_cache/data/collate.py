"""Collation of examples into one padded `Batch`, in memory that the caller provides.

This is the only code that copies frames into a batch. Training, evaluation and inference use it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.copy_padded import copy_padded
from rellm_cache.data.ring_buffer import aligned_size, allocate
from rellm_cache.data.streams import FrameSource, QuantizationParams, StreamSet
from rellm_cache.store.quantization import Quantization

UNKNOWN_VAD = (float("nan"),) * 3


@dataclass(frozen=True)
class Layout:
    """First byte, shape (B, T, D) and dtype of each stream of a batch, in one block of memory.

    D counts the values of all layers of the stream. T is 1 and the dtype float32 for a pooled
    stream.
    """

    starts: dict[str, int]
    shapes: dict[str, tuple[int, int, int]]
    dtypes: dict[str, np.dtype]
    nbytes: int


def layout(streams: StreamSet, clips: int, longest: int) -> Layout:
    """Layout of a batch of `clips` utterances; the longest utterance has `longest` frames."""
    starts: dict[str, int] = {}
    shapes: dict[str, tuple[int, int, int]] = {}
    dtypes: dict[str, np.dtype] = {}
    end = 0
    for name, source in streams.sources.items():
        starts[name] = aligned_size(end)
        pooled = name in streams.pooled
        shapes[name] = (clips, 1 if pooled else longest, streams.sizes[name])
        dtypes[name] = np.dtype(np.float32) if pooled else source.dtype
        end = starts[name] + math.prod(shapes[name]) * dtypes[name].itemsize
    return Layout(starts, shapes, dtypes, end)


def fill(
    memory: NDArray[np.uint8],
    examples: Sequence[Example],
    lengths: Sequence[int],
    streams: StreamSet,
) -> Batch:
    """Copy the frames of examples into `memory`, padded with zeros, and add the labels.

    A pooled stream gives the mean of each utterance's own frames, taken before alignment. A frame
    of several layers has their values one layer after the other.

    Args:
        memory: at least `layout(…).nbytes` bytes; all are overwritten.
        lengths: frames of each example.

    Raises:
        StoreError: a stream is damaged, or the streams differ by more than a few frames.
    """
    plan = layout(streams, len(examples), max(lengths))
    padded: dict[str, Tensor] = {}
    quantization: dict[str, QuantizationParams] = {}
    for name, source in streams.sources.items():
        out = _view(memory, plan.starts[name], plan.shapes[name], plan.dtypes[name])
        padded[name] = torch.from_numpy(out)
        if name in streams.pooled:
            for row, example, length in zip(out, examples, lengths, strict=True):
                row[:] = streams.mean(name, example.id, length)
            continue
        clips = [streams.pieces(name, e.id, n) for e, n in zip(examples, lengths, strict=True)]
        size = source.frame_size
        for layer, pieces in enumerate(zip(*clips, strict=True)):
            copy_padded(pieces, lengths, out[:, :, layer * size : (layer + 1) * size])
        if source.quantization is not None:
            quantization[name] = _params(source.quantization)
    return Batch(
        ids=tuple(e.id for e in examples),
        streams=padded,
        # Through numpy, which reads lists of numbers several times as fast as torch.
        frame_lengths=torch.from_numpy(np.array(lengths)),
        emotions=torch.from_numpy(np.array([e.emotion for e in examples])),
        vad=torch.from_numpy(np.array([e.vad or UNKNOWN_VAD for e in examples], np.float32)),
        targets=tuple(e.targets for e in examples),
        quantization=quantization,
        teacher=None if streams.teacher is None else _teacher_rows(examples, streams.teacher),
        shares=_shares(examples),
    )


def collate(examples: Sequence[Example], streams: StreamSet) -> Batch:
    """Collate examples into one padded batch in new memory; it raises what `fill` raises."""
    lengths = streams.lengths([e.id for e in examples]).tolist()
    memory = allocate(layout(streams, len(examples), max(lengths)).nbytes)
    return fill(memory, examples, lengths, streams)


def _view(
    memory: NDArray[np.uint8], start: int, shape: tuple[int, int, int], dtype: np.dtype
) -> np.ndarray:
    nbytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def _teacher_rows(examples: Sequence[Example], teacher: FrameSource) -> Tensor:
    """(N, 2 K + 1) float32 rows of the teacher, for all examples with a response."""
    answered = [e.id for e in examples for t in e.targets if t.task == "response_lm"]
    nothing = np.zeros((0, teacher.frame_size), np.float32)
    return torch.from_numpy(np.concatenate([nothing, *map(teacher.frames, answered)]))


def _shares(examples: Sequence[Example]) -> Tensor | None:
    """(B, C) float32 shares of raters, NaN for an utterance without them; None if none has them."""
    classes = next((len(e.shares) for e in examples if e.shares), 0)
    unknown = (math.nan,) * classes
    rows = [e.shares or unknown for e in examples]
    return torch.from_numpy(np.array(rows, np.float32)) if classes else None


@lru_cache(maxsize=8)
def _params(quantization: Quantization) -> QuantizationParams:
    """Tensors that all batches of a stream share; they are never written to."""
    # of several layers (K, D) -> (K D,)
    scale, mean = quantization.scale.reshape(-1), quantization.mean.reshape(-1)
    return QuantizationParams(torch.tensor(scale), torch.tensor(mean))
