"""Batches. In: utterances and feature stores. Out: `Batch`es in a fixed order for seed and epoch.

Frames come from the cache, never from audio. Which utterances share a batch follows from lengths,
seed and epoch alone, so a run that was interrupted continues with the very next batch.

Letters: B utterances in a batch, T frames of the longest, D values in a frame.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from rellm_cache.ahead import one_ahead
from rellm_cache.errors import StoreError
from rellm_cache.llm.packing import IGNORED

# Encoders' length rules differ by one or two frames at 50 Hz; more means different audio.
MAX_FRAME_GAP = 3
BUCKET_BATCHES = 32

Task = Literal["response", "recognition"]


@dataclass(frozen=True)
class Target:
    """What the LLM should say to one utterance.

    Attributes:
        task: which request it answers.
        ids: token ids of the answer, end tokens included if it is complete.
    """

    task: Task
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One utterance as training sees it.

    Attributes:
        id: of the utterance.
        emotion: index into the recipe's emotions, or `IGNORED`.
        vad: arousal, dominance, valence in 0..1, or None.
        targets: what the LLM should answer; empty without an LLM.
    """

    id: str
    emotion: int = IGNORED
    vad: tuple[float, float, float] | None = None
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Padded frames and what is known of them.

    Attributes:
        ids: of the B utterances.
        speech: (B, T, D) float16, zeros beyond each length.
        emotion: (B, T, D') float16 frames of the emotion stream, or None.
        frame_lengths: (B,) int64, valid frames of both streams.
        emotions: (B,) int64, `IGNORED` where unknown.
        vad: (B, 3) float32, NaN where unknown.
        targets: for each utterance what the LLM should answer.
    """

    ids: tuple[str, ...]
    speech: Tensor
    emotion: Tensor | None
    frame_lengths: Tensor
    emotions: Tensor
    vad: Tensor
    targets: tuple[tuple[Target, ...], ...]

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return replace(
            self,
            speech=self.speech.to(device),
            emotion=None if self.emotion is None else self.emotion.to(device),
            frame_lengths=self.frame_lengths.to(device),
            emotions=self.emotions.to(device),
            vad=self.vad.to(device),
        )


class FrameSource(Protocol):
    """Where frames come from by id: a feature store, or encodings made a moment ago."""

    frame_size: int

    def length(self, utterance_id: str, /) -> int:
        """L, frames of one utterance."""
        ...

    def frames(self, utterance_id: str, /) -> np.ndarray:
        """(L, D) float16 frames of one utterance."""
        ...


class Frames:
    """The two streams of frames of a corpus, lined up frame by frame."""

    def __init__(self, speech: FrameSource, emotion: FrameSource | None) -> None:
        self.speech = speech
        self.emotion = emotion

    def length(self, utterance_id: str) -> int:
        """Frames of one utterance: its speech frames."""
        return self.speech.length(utterance_id)

    def emotion_frames(self, utterance_id: str) -> np.ndarray:
        """(L, D') emotion frames, cut or their last frame repeated to the speech stream's L.

        Raises:
            StoreError: the streams differ by more than `MAX_FRAME_GAP` frames.
        """
        if self.emotion is None:
            raise ValueError("no emotion stream")
        frames, length = self.emotion.frames(utterance_id), self.length(utterance_id)
        gap = length - len(frames)
        if abs(gap) > MAX_FRAME_GAP:
            raise StoreError(
                f"{utterance_id}: {length} speech frames but {len(frames)} emotion frames; they "
                f"may differ by {MAX_FRAME_GAP} at most, so they were made from different audio: "
                "run `rellm extract` again"
            )
        return np.concatenate([frames, frames[-1:].repeat(gap, 0)]) if gap > 0 else frames[:length]


def collate(examples: Sequence[Example], frames: Frames) -> Batch:
    """Copy the frames of some examples into one padded batch."""
    lengths = [frames.length(e.id) for e in examples]
    speech = np.zeros((len(examples), max(lengths), frames.speech.frame_size), np.float16)
    for row, example in enumerate(examples):
        speech[row, : lengths[row]] = frames.speech.frames(example.id)
    emotion = None
    if frames.emotion is not None:
        emotion = np.zeros((*speech.shape[:2], frames.emotion.frame_size), np.float16)
        for row, example in enumerate(examples):
            emotion[row, : lengths[row]] = frames.emotion_frames(example.id)
    unknown = (float("nan"),) * 3
    return Batch(
        ids=tuple(e.id for e in examples),
        speech=torch.from_numpy(speech),
        emotion=None if emotion is None else torch.from_numpy(emotion),
        frame_lengths=torch.tensor(lengths),
        emotions=torch.tensor([e.emotion for e in examples]),
        vad=torch.tensor([e.vad or unknown for e in examples]),
        targets=tuple(e.targets for e in examples),
    )


def bucketed_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of every example once, in random batches of similar length.

    Examples are shuffled, sorted by length within windows of `BUCKET_BATCHES` batches, and the
    batches shuffled: the same for the same lengths, size, seed and epoch on any machine.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    window = batch_size * BUCKET_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window].tolist(), key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def ordered_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of every example once, sorted by length: for evaluation."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def prefetch(
    groups: Sequence[Sequence[Sequence[int]]], examples: Sequence[Example], frames: Frames
) -> Iterator[list[Batch]]:
    """Batches of each group of index lists, the next group read by a thread meanwhile."""

    def load(group: Sequence[Sequence[int]]) -> list[Batch]:
        return [collate([examples[i] for i in indices], frames) for indices in group]

    return one_ahead(load, groups)
