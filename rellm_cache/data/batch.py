"""Examples and padded batches.

Letters: B utterances in a batch, T frames of the longest, D values in a frame.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from rellm_cache.data.streams import QuantizationParams

IGNORED = -100  # in place of an emotion where there is none

Task = Literal["response_lm", "emotion_lm", "qa_lm"]


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
    speech_steps: QuantizationParams | None = None
    emotion_steps: QuantizationParams | None = None
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
                sum(len(t.ids) for t in targets if t.task == "response_lm")
                for targets in self.targets
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
