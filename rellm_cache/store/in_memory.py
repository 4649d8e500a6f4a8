"""Frames made a moment ago. In: an encoder's frames. Out: the same, read as from a store."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rellm_cache.store.writer import to_float16


class InMemoryFrames:
    """Frames in memory, by utterance id, rounded as a store would round them.

    Attributes:
        frame_size: D.
        dtype: float16, always.
        quantization: None, always.
    """

    def __init__(self, frame_size: int) -> None:
        self.frame_size = frame_size
        self.dtype = np.dtype(np.float16)
        self.quantization = None
        self._frames: dict[str, np.ndarray] = {}

    def add(self, utterance_id: str, frames: np.ndarray) -> None:
        """Keep (L, D) frames as a store would, in float16.

        Raises:
            FrameError: they are not (L, D), not finite, or beyond float16.
        """
        self._frames[utterance_id] = to_float16(frames, utterance_id, self.frame_size)

    def length(self, utterance_id: str, /) -> int:
        """L, frames of one utterance."""
        return len(self._frames[utterance_id])

    def lengths(self, utterance_ids: Sequence[str], /) -> NDArray[np.int64]:
        """(N,) frames of many utterances."""
        return np.array([self.length(i) for i in utterance_ids], np.int64)

    def frames(self, utterance_id: str, /) -> np.ndarray:
        """(L, D) float16."""
        return self._frames[utterance_id]

    def read_ahead(self, utterance_ids: Sequence[str], /) -> None:
        """Do nothing: they are in memory."""
