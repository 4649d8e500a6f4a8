"""Frames in memory, read like a feature store: for live encoding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rellm_cache.store.writer import to_float16


class InMemoryFrames:
    """Frames by utterance id, rounded to float16 as a store rounds them.

    Attributes:
        frame_size: D.
        dtype: always float16.
        quantization: always None.
    """

    def __init__(self, frame_size: int) -> None:
        self.frame_size = frame_size
        self.dtype = np.dtype(np.float16)
        self.quantization = None
        self._frames: dict[str, np.ndarray] = {}

    def add(self, utterance_id: str, frames: np.ndarray) -> None:
        """Add (L, D) frames.

        Raises:
            FrameError: they have another shape, are not finite, or exceed the range of float16.
        """
        self._frames[utterance_id] = to_float16(frames, utterance_id, self.frame_size)

    def length(self, utterance_id: str, /) -> int:
        """Return L, the number of frames of one utterance."""
        return len(self._frames[utterance_id])

    def lengths(self, utterance_ids: Sequence[str], /) -> NDArray[np.int64]:
        """Return (N,) numbers of frames of many utterances."""
        return np.array([self.length(i) for i in utterance_ids], np.int64)

    def frames(self, utterance_id: str, /) -> np.ndarray:
        """Return (L, D) float16 frames."""
        return self._frames[utterance_id]

    def read_ahead(self, utterance_ids: Sequence[str], /) -> None:
        """Do nothing: all frames are in memory."""
