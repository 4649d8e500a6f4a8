"""Frames of one part, mapped. In: its `frames` array. Out: views of ranges of frames.

Every shard is mapped when first used, and its index checked then, once: a missing file or chunk is
an error, never zeros. A process made by fork maps the files itself.
"""

import contextlib
import json
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import numpy as np

from rellm_cache.store.layout import INNER_FRAMES


class ShardError(Exception):
    """What is wrong with a shard; the part that owns it says what to do."""


class MappedShards:
    """The shard files of an uncompressed array (F, D), as `write_part` lays them out.

    Args:
        folder: of the array.
        shard_frames: S, frames in each shard file but perhaps the last.
        frames: F, in all.
        frame_size: D.
        dtype: of the values.
    """

    def __init__(
        self, folder: Path, shard_frames: int, frames: int, frame_size: int, dtype: np.dtype
    ) -> None:
        self._folder = folder
        self._shard_frames = shard_frames
        self._frames = frames
        self._frame_size = frame_size
        self._frame_bytes = frame_size * dtype.itemsize
        self._dtype = dtype
        self._maps: dict[int, np.ndarray] = {}
        _open_shards.add(self)

    @classmethod
    def open(
        cls, folder: Path, frames: int, frame_size: int, dtype: np.dtype
    ) -> "MappedShards | None":
        """The shards under `folder`; None where other codecs need zarr.

        Raises:
            ShardError: the array's metadata cannot be read, or holds another type.
        """
        try:
            meta = json.loads((folder / "zarr.json").read_text("utf-8"))
            codecs, found = meta["codecs"], meta["data_type"]
            shard_frames = int(meta["chunk_grid"]["configuration"]["chunk_shape"][0])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShardError(f"frames cannot be read ({error})") from error
        if found != dtype.name:
            raise ShardError(f"{folder}: frames are {found}, the store's encoder says {dtype.name}")
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        plain = {"name": "bytes"} if dtype.itemsize == 1 else little
        mappable = (
            len(codecs) == 1
            and codecs[0]["name"] == "sharding_indexed"
            and codecs[0]["configuration"]["codecs"] in ([plain], [little])
            and codecs[0]["configuration"]["index_codecs"] == [little, {"name": "crc32c"}]
            and codecs[0]["configuration"].get("index_location", "end") == "end"
            and codecs[0]["configuration"]["chunk_shape"] == [INNER_FRAMES, frame_size]
        )
        return cls(folder, shard_frames, frames, frame_size, dtype) if mappable else None

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, D), read-only: a view of the file where one shard holds the range.

        Raises:
            ShardError: a shard is missing, cut short, or its index is wrong.
        """
        shard = start // self._shard_frames
        base = shard * self._shard_frames
        if stop <= base + self._shard_frames:
            mapped = self._maps.get(shard)
            return (self._map(shard) if mapped is None else mapped)[start - base : stop - base]
        edge = base + self._shard_frames
        return np.concatenate([self.read(start, edge), self.read(edge, stop)])

    def is_cached(self, start: int) -> bool:
        """Whether a frame is in the page cache; False where the system cannot tell."""
        shard, place = divmod(start, self._shard_frames)
        try:
            with _opened(self._file(shard)) as handle:
                byte = place * self._frame_bytes
                return os.preadv(handle, [bytearray(1)], byte, os.RWF_NOWAIT) == 1
        except (OSError, AttributeError):  # it would have to wait, or this system has no such call
            return False

    def read_ahead(self, start: int, stop: int) -> None:
        """Ask the system to load a range of frames, without waiting for it."""
        for shard in range(start // self._shard_frames, (stop - 1) // self._shard_frames + 1):
            base = shard * self._shard_frames
            first = max(start - base, 0) * self._frame_bytes
            last = min(stop - base, self._shard_frames) * self._frame_bytes
            # What cannot be opened is found when it is read; there may be no such call.
            with contextlib.suppress(OSError, AttributeError), _opened(self._file(shard)) as handle:
                os.posix_fadvise(handle, first, last - first, os.POSIX_FADV_WILLNEED)

    def forget(self) -> None:
        """Drop every map; the next read makes it again. Views given out stay valid."""
        self._maps.clear()

    def _file(self, shard: int) -> str:
        return f"{self._folder}/c/{shard}/0"

    def _map(self, shard: int) -> np.ndarray:
        """Map one shard file after checking that its index is whole and its chunks in order."""
        file = self._file(shard)
        chunks = self._shard_frames // INNER_FRAMES
        chunk_bytes = INNER_FRAMES * self._frame_bytes
        index_bytes = 16 * chunks + 4
        try:
            data = np.asarray(np.memmap(file, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise ShardError(f"{file} cannot be mapped ({error})") from error
        # The last shard may have fewer chunks; its index has all entries.
        left = min(self._shard_frames, self._frames - shard * self._shard_frames)
        present = -(-left // INNER_FRAMES)
        whole = chunks * chunk_bytes + index_bytes
        expected = present * chunk_bytes + index_bytes
        if len(data) == whole:
            present = chunks
        elif len(data) != expected:
            raise ShardError(f"{file} has {len(data)} bytes, expected {expected}")
        index = data[-index_bytes:-4]
        if google_crc32c.value(index.tobytes()) != int(data[-4:].view("<u4")[0]):
            raise ShardError(f"{file}: the checksum of its index is wrong")
        entries = index.view("<u8").reshape(chunks, 2)[:present]  # offset, length
        order = np.arange(present, dtype=np.uint64) * np.uint64(chunk_bytes)
        if not (np.array_equal(entries[:, 0], order) and (entries[:, 1] == chunk_bytes).all()):
            raise ShardError(f"{file}: its index misses chunks or holds them out of order")
        stored = data[: present * chunk_bytes].view(self._dtype.newbyteorder("<"))
        mapped = stored.reshape(-1, self._frame_size)  # bytes -> (shard frames, D)
        self._maps[shard] = mapped
        return mapped


@contextmanager
def _opened(file: str) -> Iterator[int]:
    handle = os.open(file, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


# Maps do not cross a fork: the child makes its own when it first reads.
_open_shards: "weakref.WeakSet[MappedShards]" = weakref.WeakSet()


def _forget_all() -> None:
    for shards in list(_open_shards):
        shards.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
