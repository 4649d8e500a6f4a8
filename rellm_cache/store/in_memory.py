"""Frames in memory for live encoding, read like a feature store."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.writer import to_float16


class InMemoryFrames:
    """Frames by utterance id, rounded to float16 as a store rounds them; never quantized."""

    def __init__(self, info: StoreInfo) -> None:
        self.spec = info.spec
        self.frame_size = info.frame_size
        self.dtype = info.dtype
        self.licence = info.licence
        self.quantization = None
        self._shape = info.frame_shape
        self._frames: dict[str, np.ndarray] = {}

    def add(self, utterance_id: str, frames: np.ndarray) -> None:
        """Add (L, D) frames, of K layers (L, K, D).

        Raises `FrameError` for a wrong shape or values not finite in float16.
        """
        self._frames[utterance_id] = to_float16(frames, utterance_id, self._shape)

    def length(self, utterance_id: str, /) -> int:
        """Return L, the number of frames of one utterance."""
        return len(self._frames[utterance_id])

    def lengths(self, utterance_ids: Sequence[str], /) -> NDArray[np.int64]:
        """Return (N,) numbers of frames of many utterances."""
        return np.array([self.length(i) for i in utterance_ids], np.int64)

    def frames(self, utterance_id: str, /) -> np.ndarray:
        """Return (L, D) float16 frames, of K layers (L, K, D)."""
        return self._frames[utterance_id]

    def layer_frames(self, utterance_id: str, /) -> tuple[np.ndarray, ...]:
        """Return (L, D) float16 frames of each layer."""
        frames = self._frames[utterance_id]
        return tuple(frames.swapaxes(0, 1)) if self.spec.layer_numbers else (frames,)

    def require(self, utterance_ids: Iterable[str], command: str, /) -> None:
        """Raise `StoreError` unless every utterance was added."""
        absent = [i for i in utterance_ids if i not in self._frames]
        if absent:
            raise StoreError(
                f"{len(absent)} clips were not encoded, the first is {absent[0]!r}; add them with "
                f"`{command}`"
            )

    def audio_sha256(self, utterance_id: str, /) -> None:
        """Return None: frames in memory keep no digest of their audio."""

    def read_ahead(self, utterance_ids: Sequence[str], /) -> None:
        """Do nothing: all frames are in memory."""
