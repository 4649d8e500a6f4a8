"""Mapping from utterance ids to float32 frames: one feature store as a Python dictionary."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.specs import StoredSpec, layers_text
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror_paths import display_path

FloatFrames = NDArray[np.float32]


class Store(Mapping[str, FloatFrames]):
    """Frames of one store by utterance id, (L, D) float32; int8 frames are dequantized.

    Frames of a store of K layers are (L, K, D); `layer` gives one layer as (L, D), without reading
    the others. Only what is read is loaded. A store can be sent to other processes, as those of a
    PyTorch `DataLoader`. It shows the clips that were there when it was opened.

    Args:
        path: the store's folder.

    Attributes:
        spec: model and settings that made the frames; `spec.fingerprint` identifies them.
        layers: numbers of the K layers, in their order; empty if the frames are of one layer.
        frame_size: D, values in a frame of one layer.
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
        self._open(FeatureStore(path))

    def _open(self, store: FeatureStore) -> None:
        self._store = store
        self.spec: StoredSpec = store.spec
        self.layers: tuple[int, ...] = store.spec.layer_numbers
        self.frame_size: int = store.frame_size
        self.licence: str = store.licence

    def layer(self, number: int) -> Self:
        """One layer of the store, as a store of its own; files of other layers are not read.

        Raises:
            StoreError: the store lacks this layer.
        """
        one = object.__new__(type(self))
        one._open(self._store.select((number,)))
        return one

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
            For each id, (l, D) float32; of K layers (l, K, D).
        """
        for utterance_id in ids:
            self._require(utterance_id)
        if len(ids) > 1:
            self._store.read_ahead(ids)
        return [self._floats(self._store.layer_frames(i), slice(start, stop)) for i in ids]

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
        of = f"layers {layers_text(self.layers)}, " if self.layers else ""
        return f"Store({where!r}: {len(self)} clips, {of}{self.frame_size} values in a frame)"

    def _require(self, utterance_id: str) -> None:
        if utterance_id not in self._store:
            raise KeyError(f"{display_path(self._store.path)}: no clip {utterance_id!r}")

    def _floats(self, layers: Sequence[np.ndarray], part: slice) -> FloatFrames:
        chosen = [frames[part] for frames in layers]  # each (l, D)
        frames = np.stack(chosen, axis=1) if self.layers else chosen[0]
        if self._store.quantization is not None:
            return self._store.quantization.dequantize(frames)
        return frames.astype(np.float32)
