"""Reader of a feature store: frames, digests and dimensions by utterance id.

Only committed parts are read. If an id is in several parts, because its audio changed and was
encoded again, the newest part wins. A forked process maps the files itself.
"""

import os
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rellm_cache.config.specs import StoredSpec
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

    Attributes:
        spec: the encoder, or teacher, of its frames.
        frame_size: D.
        dtype: of stored values: float16, int8, or a teacher's float32.
        licence: of the encoder.
        ids: set of stored clips; iterates in the order of commits.
        max_lookups: most clips kept in a lookup table; most corpora have fewer.
    """

    def __init__(self, path: Path, shard_bytes: int = SHARD_BYTES) -> None:
        info = read_info(path)
        self.path = path
        self.spec = info.spec
        self.frame_size = info.frame_size
        self.dtype = info.dtype
        self.licence = info.licence
        self.parts = [Part(part, info) for part in list_parts(path)]
        columns = [part.id_columns() for part in self.parts]
        self.ids = IdIndex(columns)
        sizes = [int(part.offsets[-1]) * info.frame_bytes for part in self.parts]
        allow_open_files(sum(-(-size // shard_bytes) for size in sizes))
        self.max_lookups = 1 << 16
        self._found: dict[str, tuple[Part, int]] = {}
        self._views: dict[str, Frames] = {}
        # Rows are numbered across all parts; this is the number of each part's first row.
        self._first_rows = [0, *accumulate(len(ends) - 1 for _, ends in columns)]
        _open_stores.add(self)

    @classmethod
    def find(cls, cache: Path, spec: StoredSpec) -> "FeatureStore":
        """Open the store under `cache` that matches the encoder of a recipe."""
        return cls(find_store(cache, spec))

    def __reduce__(self) -> Any:
        # Another process opens the store itself: maps and file handles cannot be pickled.
        return FeatureStore, (self.path,)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self.ids

    @property
    def nbytes(self) -> int:
        """Total size of all files of the store."""
        own = (self.path / "zarr.json").stat().st_size
        return own + sum(part.nbytes for part in self.parts)

    @cached_property
    def quantization(self) -> Quantization | None:
        """Scale and mean of int8 frames, None for float ones; `StoreError` if the parts differ."""
        if self.dtype != np.int8:
            return None
        if not self.parts:
            raise StoreError(f"{self.path}: has no clips yet; fill it with `rellm cache quantize`")
        first = self.parts[0].quantization
        for part in self.parts[1:]:
            if part.quantization is None or first is None or not part.quantization.equals(first):
                raise StoreError(quantization_mismatch(part.path, self.parts[0].path))
        return first

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
        if not all(part.is_cached(row) for part, row in map(self._find, some)):
            for part, row in map(self._find, utterance_ids):
                part.read_ahead(row)

    def frames(self, utterance_id: str) -> Frames:
        """Return (L, D) frames as stored: a read-only view if one shard holds them, else a copy.

        Raises `StoreError` if the clip is absent, or its frames do not match their checksum, which
        is compared at the first read of this process. Raises `UnreadableError` if a file exists but
        cannot be read.
        """
        view = self._views.get(utterance_id)
        if view is None:
            part, row = self._find(utterance_id)
            view = part.frames(row)
            if not view.flags.writeable:  # it owns no memory
                if len(self._views) >= self.max_lookups:
                    self._views.clear()
                self._views[utterance_id] = view
        return view

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
        frames = part.frames(row)
        part.check(row, frames)
        return frames

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


# A forked child must not use its parent's maps: it maps again at its first read.
_open_stores: "weakref.WeakSet[FeatureStore]" = weakref.WeakSet()


def _close_all() -> None:
    for store in list(_open_stores):
        store.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
