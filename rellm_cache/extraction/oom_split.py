"""A model that splits a batch rather than lose it. In: clips. Out: a result or a reason each.

On a CPU it takes one clip at a time (`devices.clips_at_a_time`). Out of GPU memory, it halves the
batch and keeps to that size. A clip that a model refuses costs its neighbours nothing.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

import numpy as np
import torch

from rellm_cache.corpus.audio import Clip
from rellm_cache.encoders.base import Encoding, FrameEncoder
from rellm_cache.errors import AudioError
from rellm_cache.utils.devices import clips_at_a_time

Result = TypeVar("Result")


class Careful(Generic[Result]):
    """A model of clips, of which some may be too much for it.

    Args:
        forward: results of waveforms (S,) float32, in their order.
        name: of the model, in messages.
        device: that it runs on.
        say: is told when memory runs out.

    Attributes:
        limit: most clips in a forward pass, once memory has run out; None before.
        seconds: spent in forward passes.
    """

    def __init__(
        self,
        forward: Callable[[list[np.ndarray]], Sequence[Result]],
        name: str,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self._forward = forward
        self._name = name
        self._device = device
        self.limit: int | None = None
        self.seconds = 0.0
        self._say = say

    def run(self, clips: Sequence[Clip]) -> list[Result | AudioError]:
        """Results of clips in order; an `AudioError` stands for a clip that has none."""
        results: list[Result | AudioError] = []
        while len(results) < len(clips):
            size = clips_at_a_time(self._device, self.limit or len(clips))
            results += self._run(clips[len(results) : len(results) + size])
        return results

    def _run(self, clips: Sequence[Clip]) -> list[Result | AudioError]:
        begun = monotonic()
        try:
            return list(self._forward([clip.waveform for clip in clips]))
        except torch.cuda.OutOfMemoryError:
            if len(clips) == 1:
                return [
                    AudioError(
                        f"clip of {clips[0].seconds:.1f} s: out of GPU memory though encoded "
                        "alone; cut it, or use a GPU with more memory"
                    )
                ]
            self._lower_limit(len(clips))
        except AudioError as error:
            if len(clips) == 1:
                return [error]
        finally:
            self.seconds += monotonic() - begun
        # Outside of the handlers: there the error's traceback still holds the tensors.
        torch.cuda.empty_cache()
        half = len(clips) // 2
        return self._run(clips[:half]) + self._run(clips[half:])

    def _lower_limit(self, too_many: int) -> None:
        size = too_many // 2
        if self.limit is None:
            self._say(
                f"{self._name}: out of GPU memory with {too_many} clips at a time; going on with "
                f"{size}, or fewer where that is too much. --batch-size {size} avoids the retries"
            )
        self.limit = min(self.limit or size, size)


class CarefulEncoder(Careful[Encoding]):
    """A `FrameEncoder` for clips of which some may be too much for it."""

    def __init__(
        self, encoder: FrameEncoder, device: torch.device, say: Callable[[str], None]
    ) -> None:
        super().__init__(encoder.encode, encoder.spec.slug, device, say)

    def encode(self, clips: Sequence[Clip]) -> list[Encoding | AudioError]:
        """Encodings of clips, as `run`."""
        return self.run(clips)
