"""Reading a store. In: a store's folder. Out: frames and free outputs by utterance id.

Only committed parts are seen. Where an id is in several parts (its audio changed and was encoded
again) the newest part wins.
"""

from collections.abc import Iterable, KeysView
from pathlib import Path
from typing import Any

import numpy as np

from rellm_cache.config import EncoderSpec
from rellm_cache.errors import StoreError
from rellm_cache.store.layout import damaged, find_store, list_parts, read_info
from rellm_cache.store.part import Frames, Part, frames_crc32c


class FeatureStore:
    """The frames of one encoder spec. Opening reads the index; shards are mapped when first used.

    Attributes:
        path: the store's folder.
        spec: what its frames are.
        frame_size: D.
        licence: of the encoder that made them.
    """

    def __init__(self, path: Path) -> None:
        info = read_info(path)
        self.path = path
        self.spec = info.spec
        self.frame_size = info.frame_size
        self.licence = info.licence
        self.parts = [Part(part, info.frame_size) for part in list_parts(path)]
        self._index: dict[str, tuple[Part, int]] = {}
        for part in self.parts:
            self._index.update((key, (part, row)) for row, key in enumerate(part.ids))

    @classmethod
    def find(cls, cache: Path, spec: EncoderSpec) -> "FeatureStore":
        """Open the store under `cache` that holds what a recipe's encoder asks for."""
        return cls(find_store(cache, spec))

    def __reduce__(self) -> Any:
        # Another process opens the store itself: maps and file handles do not travel.
        return FeatureStore, (self.path,)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._index

    @property
    def ids(self) -> KeysView[str]:
        """Of every clip, in no useful order."""
        return self._index.keys()

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the store."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def _find(self, utterance_id: str) -> tuple[Part, int]:
        try:
            return self._index[utterance_id]
        except KeyError:
            raise StoreError(
                f"{self.path}: no clip {utterance_id!r}; add it with `rellm extract`"
            ) from None

    def length(self, utterance_id: str) -> int:
        """L, the number of frames of one clip."""
        part, row = self._find(utterance_id)
        return int(part.offsets[row + 1] - part.offsets[row])

    def frames(self, utterance_id: str) -> Frames:
        """(L, D) float16, read-only: a view of the file where it lies within one shard."""
        part, row = self._find(utterance_id)
        return part.frames(row)

    def verified_frames(self, utterance_id: str) -> Frames:
        """As `frames`, compared with the checksum written beside them."""
        part, row = self._find(utterance_id)
        frames = part.frames(row)
        if frames_crc32c(frames) != int(part.frames_crc32c[row]):
            raise damaged(part.path, f"frames of {utterance_id!r} do not match their checksum")
        return frames

    def vad(self, utterance_id: str) -> np.ndarray | None:
        """(3,) float32 arousal, dominance, valence that the encoder's own head gave, if any."""
        part, row = self._find(utterance_id)
        return None if part.vad is None else part.vad[row]

    def audio_sha256(self, utterance_id: str) -> bytes:
        """Digest of the audio (and segment) the stored frames were made from."""
        part, row = self._find(utterance_id)
        return bytes(part.audio_sha256[row])

    def part_of(self, utterance_id: str) -> Path:
        """Folder of the part that one clip is read from."""
        return self._find(utterance_id)[0].path

    def require(self, utterance_ids: Iterable[str], command: str) -> None:
        """Raise `StoreError` unless every id is here; the message says how many are not."""
        wanted = list(utterance_ids)
        absent = [i for i in wanted if i not in self._index]
        if absent:
            raise StoreError(
                f"{self.path}: {len(absent)} of {len(wanted)} clips are absent from the cache, the "
                f"first is {absent[0]!r}; add them with `{command}`"
            )
