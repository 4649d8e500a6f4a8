"""Examples and batches, and their order. In: lengths, a seed, an epoch. Out: which go together.

Which utterances share a batch follows from lengths, seed and epoch alone, so a run that was
interrupted continues with the very next batch. `loading` makes the batches.

Letters: B utterances in a batch, T frames of the longest, D values in a frame.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rellm_cache.errors import StoreError
from rellm_cache.store.quantization import Quantisation

# Encoders' length rules differ by one or two frames at 50 Hz; more means different audio.
MAX_FRAME_GAP = 3
BUCKET_BATCHES = 32
IGNORED = -100  # in place of an emotion where there is none

Task = Literal["response", "recognition", "question"]


@dataclass(frozen=True)
class Target:
    """What the LLM should say to one utterance.

    Attributes:
        task: which request it answers.
        ids: token ids of the answer, end tokens included if it is complete.
        after: token ids between speech and answer, where they are the target's own: a question;
            None for those of the task's prompt.
        informed: the same with metadata about the speech; None where there is none.
    """

    task: Task
    ids: tuple[int, ...]
    after: tuple[int, ...] | None = None
    informed: tuple[int, ...] | None = None


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
class Steps:
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


@dataclass(frozen=True)
class Batch:
    """Padded frames and what is known of them.

    Attributes:
        ids: of the B utterances.
        speech: (B, T, D) float16 or int8, zeros beyond each length.
        emotion: (B, T, D') float16 or int8 frames of the emotion stream, or None.
        frame_lengths: (B,) int64, valid frames of both streams.
        emotions: (B,) int64, `IGNORED` where unknown.
        vad: (B, 3) float32, NaN where unknown.
        targets: for each utterance what the LLM should answer.
        speech_steps, emotion_steps: of an int8 stream; None where frames are float16.
        teacher: (N, 2 K + 1) float32, what the text LLM predicts at each token of the responses
            among the targets, one after another (`llm.teacher_distribution`); None without it.
    """

    ids: tuple[str, ...]
    speech: Tensor
    emotion: Tensor | None
    frame_lengths: Tensor
    emotions: Tensor
    vad: Tensor
    targets: tuple[tuple[Target, ...], ...]
    speech_steps: Steps | None = None
    emotion_steps: Steps | None = None
    teacher: Tensor | None = None

    def to(self, device: torch.device) -> Self:
        """The same batch on a device; copies from page-locked memory go on in the background."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            speech=moved(self.speech),
            emotion=None if self.emotion is None else moved(self.emotion),
            frame_lengths=moved(self.frame_lengths),
            emotions=moved(self.emotions),
            vad=moved(self.vad),
            speech_steps=None if self.speech_steps is None else self.speech_steps.to(device),
            emotion_steps=None if self.emotion_steps is None else self.emotion_steps.to(device),
            teacher=None if self.teacher is None else moved(self.teacher),
        )

    def part(self, clips: slice) -> Self:
        """Some of the utterances, padded no longer than they need."""
        own: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (tuple, Tensor)):  # what there is of each utterance
                own[item.name] = value[clips]
        if self.teacher is not None:  # a row for each token of a response, not for each utterance
            tokens = [
                sum(len(t.ids) for t in targets if t.task == "response") for targets in self.targets
            ]
            first = sum(tokens[: clips.start])
            own["teacher"] = self.teacher[first : first + sum(tokens[clips])]
        longest = int(own["frame_lengths"].max())
        for stream in own.keys() & {"speech", "emotion"}:
            own[stream] = own[stream][:, :longest]  # (b, T, D) -> (b, t, D)
        return replace(self, **own)

    def with_metadata(self, dropout: float, seed: int, epoch: int) -> Self:
        """The batch as training sees it in an epoch: targets with metadata show it, but for a
        share of `dropout`, drawn anew each epoch by hash of seed, epoch, utterance and place."""

        def shown(target: Target, place: str) -> Target:
            if target.informed is None or uniform(f"{seed}:{epoch}:{place}") < dropout:
                return target
            return replace(target, after=target.informed)

        targets = tuple(
            tuple(shown(target, f"{name}:{index}") for index, target in enumerate(own))
            for name, own in zip(self.ids, self.targets, strict=True)
        )
        return replace(self, targets=targets)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep GPU memory of this batch from being used again before `stream` is done with it."""
        steps = [s for s in (self.speech_steps, self.emotion_steps) if s is not None]
        for value in (v for holder in (self, *steps) for v in vars(holder).values()):
            if isinstance(value, Tensor):
                value.record_stream(stream)


def uniform(name: str) -> float:
    """A number in 0..1 that follows from a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


class FrameSource(Protocol):
    """Where frames come from by id: a feature store, or encodings made a moment ago."""

    frame_size: int
    dtype: np.dtype

    @property
    def quantisation(self) -> Quantisation | None:
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


class Frames:
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
        return np.concatenate(line_up(frames, self.length(utterance_id), utterance_id))

    def values(self, utterance_id: str) -> np.ndarray:
        """(L, D + D') float64: what the frames of both streams stand for, lined up."""
        streams = [_values(self.speech, self.speech.frames(utterance_id))]
        if self.emotion is not None:
            streams.append(_values(self.emotion, self.emotion_frames(utterance_id)))
        return np.concatenate(streams, axis=1)


def _values(source: FrameSource, frames: np.ndarray) -> np.ndarray:
    """What stored frames stand for, float64."""
    if source.quantisation is not None:
        frames = source.quantisation.dequantise(frames)
    return frames.astype(np.float64)


def line_up(frames: np.ndarray, length: int, utterance_id: str) -> list[np.ndarray]:
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


def bucketed_batches(
    lengths: Sequence[int],
    batch_size: int,
    seed: int,
    epoch: int,
    window_batches: int = BUCKET_BATCHES,
) -> list[list[int]]:
    """Indices of every example once, in random batches of similar length.

    Examples are shuffled, sorted by length within windows of `window_batches` batches, and the
    batches shuffled: the same for the same lengths, sizes, seed and epoch on any machine. A wider
    window pads less and mixes less.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    window = batch_size * window_batches
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window].tolist(), key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def ordered_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of every example once, sorted by length: for evaluation."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
