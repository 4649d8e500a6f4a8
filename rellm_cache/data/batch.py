"""Examples and padded batches.

Letters: B utterances in a batch, T frames in the longest utterance, D values in a frame.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor

from rellm_cache.data.streams import QuantizationParams

IGNORED = -100  # the index of an unknown emotion

Task = Literal["response_lm", "emotion_lm", "qa_lm"]


@dataclass(frozen=True)
class Target:
    """An answer that the LLM should give to one utterance.

    Attributes:
        task: name of the prompt that the answer belongs to.
        ids: token ids of the answer, with end tokens if it is complete.
        after: token ids between speech and answer, such as a question; None to use those of the
            task's prompt.
        after_with_metadata: `after` with metadata about the speech; None without metadata.
    """

    task: Task
    ids: tuple[int, ...]
    after: tuple[int, ...] | None = None
    after_with_metadata: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Example:
    """Labels and target answers of one utterance.

    Attributes:
        emotion: index into the recipe's emotions, or `IGNORED`; the majority of `shares`.
        vad: arousal, dominance, valence in 0..1, or None.
        targets: answers that the LLM should give; empty without an LLM.
        shares: of raters, for each of the recipe's emotions, which sum to 1; None without raters.
    """

    id: str
    emotion: int = IGNORED
    vad: tuple[float, float, float] | None = None
    targets: tuple[Target, ...] = ()
    shares: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """Padded frames of B utterances, with their labels.

    Attributes:
        ids: of the utterances.
        streams: name → (B, T, D) float16 or int8 frames, zero beyond each length; of a pooled
            stream (B, 1, D) float32, the mean of the utterance's own frames. A stream of K layers
            has D = K · d values, one layer after the other: `frames.unflatten(-1, (K, d))` is
            (B, T, K, d).
        frame_lengths: (B,) int64, valid frames, the same in every stream.
        emotions: (B,) int64, `IGNORED` where unknown.
        vad: (B, 3) float32, NaN where unknown.
        targets: for each utterance, the answers that the LLM should give.
        quantization: name → scale and mean of each int8 stream.
        teacher: (N, 2 K + 1) float32 predictions of the text LLM, one row for each token of the
            responses in `targets` (`llm.teacher_distribution`); None without a teacher.
        shares: (B, C) float32 shares of raters for each emotion, which sum to 1; NaN for an
            utterance without raters; None if none has them.

    Example:
        >>> import rellm_cache as rellm
        >>> batch: rellm.Batch = next(iter(rellm.loader("heads", "manifests/demo")))
        >>> batch.to("cpu").emotions.shape == batch.frame_lengths.shape
        True
    """

    ids: tuple[str, ...]
    streams: dict[str, Tensor]
    frame_lengths: Tensor
    emotions: Tensor
    vad: Tensor
    targets: tuple[tuple[Target, ...], ...]
    quantization: dict[str, QuantizationParams] = field(default_factory=dict)
    teacher: Tensor | None = None
    shares: Tensor | None = None

    def to(self, device: str | torch.device) -> Self:
        """Copy the batch to a device; copies from page-locked memory run in the background."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            streams={name: move(frames) for name, frames in self.streams.items()},
            frame_lengths=move(self.frame_lengths),
            emotions=move(self.emotions),
            vad=move(self.vad),
            quantization={name: p.to(device) for name, p in self.quantization.items()},
            teacher=None if self.teacher is None else move(self.teacher),
            shares=None if self.shares is None else move(self.shares),
        )

    def part(self, clips: slice) -> Self:
        """Select some utterances, padded to the longest selected one."""
        lengths = self.frame_lengths[clips]
        longest = int(lengths.max())
        teacher = None
        if self.teacher is not None:  # one row for each token of a response
            tokens = [
                sum(len(t.ids) for t in targets if t.task == "response_lm")
                for targets in self.targets
            ]
            first = sum(tokens[: clips.start])
            teacher = self.teacher[first : first + sum(tokens[clips])]
        return replace(
            self,
            ids=self.ids[clips],
            # (B, T, D) -> (b, t, D)
            streams={name: frames[clips, :longest] for name, frames in self.streams.items()},
            frame_lengths=lengths,
            emotions=self.emotions[clips],
            vad=self.vad[clips],
            targets=self.targets[clips],
            teacher=teacher,
            shares=None if self.shares is None else self.shares[clips],
        )

    def with_metadata(self, dropout: float, seed: int, epoch: int) -> Self:
        """Add metadata to the targets that have it, except to a random share `dropout` of them.

        The random choice is a hash of seed, epoch, utterance and position.
        """

        def shown(target: Target, position: str) -> Target:
            after = target.after_with_metadata
            if after is None or uniform_hash(f"{seed}:{epoch}:{position}") < dropout:
                return target
            return replace(target, after=after)

        targets = tuple(
            tuple(shown(target, f"{name}:{index}") for index, target in enumerate(own))
            for name, own in zip(self.ids, self.targets, strict=True)
        )
        return replace(self, targets=targets)

    def record_stream(self, stream: torch.Stream) -> None:
        """Prevent reuse of this batch's GPU memory until `stream` has finished with it."""
        scales = [tensor for p in self.quantization.values() for tensor in (p.scale, p.mean)]
        labels = [self.frame_lengths, self.emotions, self.vad, self.teacher, self.shares]
        for tensor in (*self.streams.values(), *scales, *labels):
            if tensor is not None:
                tensor.record_stream(stream)


def uniform_hash(text: str) -> float:
    """Hash a text to a number in 0..1, uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
