"""Out-of-memory splitting: a batch that does not fit on the GPU is halved and run again.

On a CPU clips are processed one at a time (`devices.forward_batch_size`). A batch with a clip that
the model refuses is halved as well, so that only that clip fails.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

import numpy as np
import torch

from rellm_cache.corpus.audio import Clip
from rellm_cache.errors import AudioError
from rellm_cache.utils.devices import forward_batch_size

Result = TypeVar("Result")


class OomSplitter(Generic[Result]):
    """Runs a model on clips, in batches that fit into memory.

    Args:
        forward: waveforms (S,) float32 → one result each, in order.
        name: of the model, for messages.
        device: that the model runs on.
        say: called with a message when memory runs out.
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
        self.limit: int | None = None  # most clips in a forward pass after memory ran out
        self.seconds = 0.0  # spent in forward passes
        self._say = say

    def run(self, clips: Sequence[Clip]) -> list[Result | AudioError]:
        """Results of clips in order, with an `AudioError` for each clip that failed."""
        results: list[Result | AudioError] = []
        while len(results) < len(clips):
            size = forward_batch_size(self._device, self.limit or len(clips))
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
        # Not inside the handlers: there the error's traceback still holds the tensors.
        torch.cuda.empty_cache()
        half = len(clips) // 2
        return self._run(clips[:half]) + self._run(clips[half:])

    def _lower_limit(self, too_many: int) -> None:
        size = too_many // 2
        if self.limit is None:
            self._say(
                f"{self._name}: out of GPU memory with {too_many} clips at a time; continuing with "
                f"{size} or fewer. Use --batch-size {size} to avoid the retries"
            )
        self.limit = min(self.limit or size, size)
