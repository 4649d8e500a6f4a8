"""Reader of a feature store: frames, digests and dimensions by utterance id.

Only committed parts are read. If an id is in several parts, because its audio changed and was
encoded again, the newest part wins. A forked process maps the files itself.
"""

import copy
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.specs import EncoderSpec, StoredSpec, layers_text
from rellm_cache.errors import StoreError
from rellm_cache.store.errors import quantization_mismatch
from rellm_cache.store.format import SHARD_BYTES, Frames, list_parts, read_info
from rellm_cache.store.id_index import ABSENT, IdIndex
from rellm_cache.store.matching import find_store
from rellm_cache.store.part import Part
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.store.shard_reader import allow_open_files

PROBED_CLIPS = 2  # clips of a batch that are tested for being in the page cache


class FeatureStore:
    """The frames of one encoder spec. Opening reads the index; shards are mapped when first used.

    Args:
        path: the store's folder.
        shard_bytes: largest size of a shard file, to allow enough open files.
        layers: numbers of the layers to read, of a store that has several; None reads all it has.
            Files of other layers are not touched. One layer is read as from a store of its own.

    Attributes:
        spec: the encoder, or teacher, of the frames that are read.
        frame_size: D, values in a frame of one layer.
        dtype: of stored values: float16, int8, or a teacher's float32.
        licence: of the encoder.
        ids: set of stored clips; iterates in the order of commits.
        max_lookups: most clips kept in a lookup table; most corpora have fewer.
    """

    def __init__(
        self,
        path: Path,
        shard_bytes: int = SHARD_BYTES,
        layers: tuple[int, ...] | None = None,
    ) -> None:
        info = read_info(path)
        self.path = path
        self._stored = info
        self.spec, self._places = _select(info.spec, layers, path)
        self.frame_size = info.frame_size
        self.dtype = info.dtype
        self.licence = info.licence
        self.parts = [Part(part, info) for part in list_parts(path)]
        columns = [part.id_columns() for part in self.parts]
        self.ids = IdIndex(columns)
        sizes = [int(part.offsets[-1]) * info.frame_bytes for part in self.parts]
        allow_open_files(len(self._places) * sum(-(-size // shard_bytes) for size in sizes))
        self.max_lookups = 1 << 16
        self._found: dict[str, tuple[Part, int]] = {}
        self._views: dict[str, tuple[Frames, ...]] = {}
        # Rows are numbered across all parts; this is the number of each part's first row.
        self._first_rows = [0, *accumulate(len(ends) - 1 for _, ends in columns)]
        _open_stores.add(self)

    @classmethod
    def find(cls, cache: Path, spec: StoredSpec) -> "FeatureStore":
        """Open the store under `cache` that matches the encoder of a recipe, with its layers."""
        return cls(find_store(cache, spec)).select_for(spec)

    def select_for(self, spec: StoredSpec) -> "FeatureStore":
        """The same store with the layers of a recipe's encoder to read, all of which it has."""
        held = self._stored.spec
        if not (isinstance(spec, EncoderSpec) and held.layer_numbers):
            return self
        return self.select(spec.layers_within(cast("EncoderSpec", held)))

    def select(self, layers: tuple[int, ...] | None) -> "FeatureStore":
        """The same store with other layers to read; None for all. Other layers are not touched.

        Raises `StoreError` if it lacks one.
        """
        other = copy.copy(self)
        other.spec, other._places = _select(self._stored.spec, layers, self.path)
        other._views = {}
        other.__dict__.pop("quantization", None)
        _open_stores.add(other)
        return other

    def __reduce__(self) -> Any:
        # Another process opens the store itself: maps and file handles cannot be pickled.
        several = self._stored.spec.layer_numbers
        layers = tuple(several[place] for place in self._places) if several else None
        return FeatureStore, (self.path, SHARD_BYTES, layers)

    def __copy__(self) -> "FeatureStore":
        other = object.__new__(FeatureStore)
        other.__dict__.update(self.__dict__)
        return other

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self.ids

    @property
    def nbytes(self) -> int:
        """Total size of all files of the store, with layers that are not read."""
        own = (self.path / "zarr.json").stat().st_size
        return own + sum(part.nbytes for part in self.parts)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame that is read: (D,), or (K, D) of K layers."""
        layers = self.spec.layer_numbers
        return (len(layers), self.frame_size) if layers else (self.frame_size,)

    @cached_property
    def quantization(self) -> Quantization | None:
        """Scale and mean of int8 frames, None for float ones; `StoreError` if the parts differ.

        They are (D,), or (K, D) if K layers are read.
        """
        if self.dtype != np.int8:
            return None
        if not self.parts:
            raise StoreError(f"{self.path}: has no clips yet; fill it with `rellm cache quantize`")
        first = self.parts[0].quantization
        for part in self.parts[1:]:
            if part.quantization is None or first is None or not part.quantization.equals(first):
                raise StoreError(quantization_mismatch(part.path, self.parts[0].path))
        if first is None or not self._stored.spec.layer_numbers:
            return first
        places = [*self._places] if self.spec.layer_numbers else self._places[0]
        return Quantization(first.scale[places], first.mean[places])

    def _find(self, utterance_id: str) -> tuple[Part, int]:
        found = self._found.get(utterance_id)
        if found is None:
            row = self.ids.row(utterance_id)
            if row == ABSENT:
                raise self._absent(utterance_id)
            part = bisect_right(self._first_rows, row) - 1
            found = self.parts[part], row - self._first_rows[part]
            if len(self._found) >= self.max_lookups:
                self._found.clear()
            self._found[utterance_id] = found
        return found

    def _absent(self, utterance_id: str) -> StoreError:
        where = display_path(self.path)
        return StoreError(f"{where}: no clip {utterance_id!r}; add it with `{self.spec.command}`")

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        """Number of frames of each row of all parts."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(p.offsets) for p in self.parts)])

    def lengths(self, utterance_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return (N,) numbers of frames of many clips."""
        rows = self.ids.rows(utterance_ids)
        if ABSENT in rows:
            raise self._absent(utterance_ids[int(np.argmin(rows))])
        return self._lengths[rows]

    def length(self, utterance_id: str) -> int:
        """Return L, the number of frames of one clip."""
        part, row = self._find(utterance_id)
        return part.length(row)

    def read_ahead(self, utterance_ids: Sequence[str]) -> None:
        """Ask the system to load clips in the background, if some are not in memory.

        Only a few clips are probed: asking costs more, and usually all are in memory.
        """
        some = utterance_ids[:: len(utterance_ids) // PROBED_CLIPS + 1]
        for place in self._places:
            if not all(part.is_cached(row, place) for part, row in map(self._find, some)):
                for part, row in map(self._find, utterance_ids):
                    part.read_ahead(row, place)

    def frames(self, utterance_id: str) -> Frames:
        """Return (L, D) frames as stored: a read-only view if one shard holds them, else a copy.

        Of K layers a copy, (L, K, D). It raises what `layer_frames` raises.
        """
        layers = self.layer_frames(utterance_id)
        if not self.spec.layer_numbers:
            return layers[0]
        stacked: NDArray[Any] = np.stack(layers, axis=1)  # K times (L, D) -> (L, K, D)
        return stacked

    def layer_frames(self, utterance_id: str) -> tuple[Frames, ...]:
        """Return (L, D) frames of each layer to read: views where one shard holds them.

        Raises `StoreError` if the clip is absent, or frames do not match their checksum, which is
        compared at the first read of this process. Raises `UnreadableError` if a file exists but
        cannot be read.
        """
        views = self._views.get(utterance_id)
        if views is None:
            part, row = self._find(utterance_id)
            views = tuple(part.frames(row, place) for place in self._places)
            if not any(view.flags.writeable for view in views):  # they own no memory
                if len(self._views) >= self.max_lookups:
                    self._views.clear()
                self._views[utterance_id] = views
        return views

    def close(self) -> None:
        """Drop all memory maps, for example before unmounting a disk; the next read maps again.

        Frames returned earlier stay valid and keep their file mapped.
        """
        self._views.clear()
        for part in self.parts:
            part.close()

    def verified_frames(self, utterance_id: str) -> Frames:
        """Return frames as `frames` does, but compare their checksum at every call."""
        part, row = self._find(utterance_id)
        for place, frames in zip(self._places, self.layer_frames(utterance_id), strict=True):
            part.check(row, frames, place)
        return self.frames(utterance_id)

    def vad(self, utterance_id: str) -> np.ndarray | None:
        """Return (3,) float32 arousal, dominance, valence of the encoder's head, or None."""
        part, row = self._find(utterance_id)
        return None if part.vad is None else part.vad[row]

    def audio_sha256(self, utterance_id: str) -> bytes:
        """Return the digest of the audio (and segment) of one clip."""
        part, row = self._find(utterance_id)
        return bytes(part.audio_sha256[row])

    def part_of(self, utterance_id: str) -> Path:
        """Return the folder of the part that holds one clip."""
        return self._find(utterance_id)[0].path

    def require(self, utterance_ids: Iterable[str], command: str) -> None:
        """Raise `StoreError` unless the store has every id; the message counts absent ones."""
        wanted = list(utterance_ids)
        absent = [i for i in wanted if i not in self.ids]
        if absent:
            raise StoreError(
                f"{display_path(self.path)}: {len(absent)} of {len(wanted)} clips are absent from "
                f"the cache, the first is {absent[0]!r}; add them with `{command}`"
            )


def _select(
    spec: StoredSpec, layers: tuple[int, ...] | None, path: Path
) -> tuple[StoredSpec, tuple[int, ...]]:
    """The spec of the layers to read of a store, and their places in it.

    Raises `StoreError` if the store lacks one of them.
    """
    held = spec.layer_numbers
    if layers is None:
        return spec, tuple(range(max(1, len(held))))
    own = held or ((spec.layer,) if isinstance(spec, EncoderSpec) else ())
    if missing := [layer for layer in layers if layer not in own]:
        raise StoreError(
            f"{display_path(path)}: has no layer {layers_text(tuple(missing))}, found "
            f"{layers_text(own) or 'no layers'}; read one of these, or extract with that layer"
        )
    if not held:
        return spec, (0,)
    return (
        cast("EncoderSpec", spec).with_layers(layers),  # no other spec has layers
        tuple(held.index(layer) for layer in layers),
    )


# A forked child must not use its parent's maps: it maps again at its first read.
_open_stores: "weakref.WeakSet[FeatureStore]" = weakref.WeakSet()


def _close_all() -> None:
    for store in list(_open_stores):
        store.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
