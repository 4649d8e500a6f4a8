"""Mapping from utterance ids to float32 frames: one feature store as a Python dictionary."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.specs import StoredSpec
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path

FloatFrames = NDArray[np.float32]


class Store(Mapping[str, FloatFrames]):
    """Frames of one store by utterance id, (L, D) float32; int8 frames are dequantized.

    Only what is read is loaded. A store can be sent to other processes, as those of a PyTorch
    `DataLoader`. It shows the clips that were there when it was opened.

    Args:
        path: the store's folder.

    Attributes:
        spec: model and settings that made the frames; `spec.fingerprint` identifies them.
        frame_size: D, values in a frame.
        licence: of the model that made the frames.

    Raises:
        StoreError: there is no store, or frames that are read do not match their checksum.
        KeyError: an id that is asked for is not in the store.

    Example:
        >>> import rellm_cache as rellm
        >>> from pathlib import Path
        >>> store = rellm.open_store(next(Path("cache").glob("prosody-*")))
        >>> store["demo/mia-happy-1"].shape[1] == store.frame_size
        True
    """

    def __init__(self, path: Path) -> None:
        self._store = FeatureStore(path)
        self.spec: StoredSpec = self._store.spec
        self.frame_size: int = self._store.frame_size
        self.licence: str = self._store.licence

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Ids of all clips, in the order in which they were stored."""
        return tuple(self._store.ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) int64: number of frames of each clip, in the order of `ids`."""
        return self._store.lengths(self.ids)

    def many(
        self, ids: Sequence[str], start: int = 0, stop: int | None = None
    ) -> list[FloatFrames]:
        """Frames `start` to `stop` of several clips, as a Python slice; all frames by default.

        Returns:
            For each id, (l, D) float32.
        """
        for utterance_id in ids:
            self._require(utterance_id)
        if len(ids) > 1:
            self._store.read_ahead(ids)
        return [self._floats(self._store.frames(i)[start:stop]) for i in ids]

    def __getitem__(self, utterance_id: str) -> FloatFrames:
        return self.many([utterance_id])[0]

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._store

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        where = display_path(self._store.path)
        return f"Store({where!r}: {len(self)} clips, {self.frame_size} values in a frame)"

    def _require(self, utterance_id: str) -> None:
        if utterance_id not in self._store:
            raise KeyError(f"{display_path(self._store.path)}: no clip {utterance_id!r}")

    def _floats(self, frames: np.ndarray) -> FloatFrames:
        if self._store.quantization is not None:
            return self._store.quantization.dequantize(frames)
        return frames.astype(np.float32)
