"""Frames of one part, mapped. In: its `frames` array. Out: views of ranges of frames.

Every shard is mapped when first used, and its index checked then, once: a missing file or chunk is
an error, never zeros.
"""

import contextlib
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from rellm_cache.errors import RellmError
from rellm_cache.store.errors import MISSING_FILE_ERRORS, unreadable_error
from rellm_cache.store.format import INNER_FRAMES, StoreInfo
from rellm_cache.store.remote.download import open_shard, part_origin_url
from rellm_cache.store.shard_writer import shard_index


class ShardError(Exception):
    """What is wrong with a shard; the part that owns it says what to do."""


def shard_bytes(chunks: int, present: int, chunk_bytes: int) -> int:
    """Size of a shard file with room for `chunks` that holds `present` of them."""
    return present * chunk_bytes + 16 * chunks + 4


def allow_open_files(more: int) -> None:
    """Let this process hold so many files more, as far as the system allows: a map holds its own.

    The usual limit of 1,024 would end at 64 GB of frames.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if more > soft // 4:
        wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def map_shard(file: Path, chunks: int, present: int, chunk_bytes: int) -> NDArray[np.uint8]:
    """The inner chunks of one shard file, end to end, once its size and its index are checked.

    Args:
        chunks: that a shard has room for.
        present: that must be there; a writer may also have filled the shard.

    Raises:
        ShardError: the file is missing or not of this form.
        UnreadableError: it cannot be read, or fetched, now.
        StoreError: in a copy of an object store: its part was removed, or there is no room.
    """
    try:
        with open_shard(file) as opened:
            data = np.asarray(np.memmap(opened, np.uint8, "r"))
    except (*MISSING_FILE_ERRORS, ValueError) as error:
        raise ShardError(f"{file} cannot be mapped ({error})") from error
    except OSError as error:
        raise unreadable_error(file, error) from error
    if len(data) == shard_bytes(chunks, chunks, chunk_bytes):
        present = chunks
    expected = shard_bytes(chunks, present, chunk_bytes)
    if len(data) != expected:
        raise ShardError(f"{file} has {len(data)} bytes, expected {expected}")
    body, index, checksum = np.split(data, [present * chunk_bytes, expected - 4])
    if google_crc32c.value(index) != int(checksum.view("<u4")[0]):
        raise ShardError(f"{file}: the checksum of its index is wrong")
    if index.tobytes() != shard_index(chunks, present, chunk_bytes):
        raise ShardError(f"{file}: its index misses chunks or holds them out of order")
    return body


class MappedShards:
    """The shard files of an uncompressed array (F, D), as `write_part` lays them out.

    Args:
        folder: of the array.
        shard_frames: S, frames in each shard file but perhaps the last.
        frames: F, in all.
        info: of the store.
    """

    def __init__(self, folder: Path, shard_frames: int, frames: int, info: StoreInfo) -> None:
        self._folder = folder
        self._shard_frames = shard_frames
        self._frames = frames
        self._info = info
        self._frame_bytes = info.frame_bytes
        self._maps: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, folder: Path, frames: int, info: StoreInfo) -> "MappedShards | None":
        """The shards under `folder`; None where other codecs need zarr.

        Raises:
            ShardError: the array's metadata cannot be read, or holds another type.
            UnreadableError: it cannot be read now.
        """
        file = folder / "zarr.json"
        try:
            meta = json.loads(file.read_text("utf-8"))
            found = meta["data_type"]
            mappable = _is_mappable(meta, info)
            shard_frames = int(meta["chunk_grid"]["configuration"]["chunk_shape"][0])
        except (*MISSING_FILE_ERRORS, ValueError, LookupError, TypeError) as error:
            raise ShardError(f"metadata of frames cannot be read ({error!r})") from error
        except OSError as error:
            raise unreadable_error(file, error) from error
        if found != info.dtype.name:
            raise ShardError(
                f"{folder}: frames are {found}, the store's encoder says {info.dtype.name}"
            )
        return cls(folder, shard_frames, frames, info) if mappable else None

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

    @property
    def nbytes(self) -> int:
        """Bytes of all shard files, whether or not they are here."""
        chunks = self._shard_frames // INNER_FRAMES
        full, rest = divmod(self._frames, self._shard_frames)
        last = -(-rest // INNER_FRAMES)
        sizes = [shard_bytes(chunks, chunks, INNER_FRAMES * self._frame_bytes)] * full
        if last:
            sizes.append(shard_bytes(chunks, last, INNER_FRAMES * self._frame_bytes))
        return sum(sizes)

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
        """Ask the system to load a range of frames, without waiting for it.

        In a copy of an object store, what is not here is fetched, and that is waited for.
        """
        for shard in range(start // self._shard_frames, (stop - 1) // self._shard_frames + 1):
            base = shard * self._shard_frames
            first = max(start - base, 0) * self._frame_bytes
            last = min(stop - base, self._shard_frames) * self._frame_bytes
            # What cannot be opened is found when it is read; there may be no such call.
            with (
                contextlib.suppress(OSError, AttributeError, RellmError),
                self._open_for_advice(shard) as handle,
            ):
                os.posix_fadvise(handle, first, last - first, os.POSIX_FADV_WILLNEED)

    @contextmanager
    def _open_for_advice(self, shard: int) -> Iterator[int]:
        """A shard file's handle; in a copy it is fetched first if need be, and held."""
        if self._is_plain:  # a third of the time, for every clip of a cold store
            with _opened(self._file(shard)) as handle:
                yield handle
        else:
            with open_shard(Path(self._file(shard))) as opened:
                yield opened.fileno()

    @cached_property
    def _is_plain(self) -> bool:
        """Whether the part is in a plain folder rather than a copy of an object store."""
        return part_origin_url(self._folder.parent) is None

    def _file(self, shard: int) -> str:
        return f"{self._folder}/c/{shard}/0"

    def _map(self, shard: int) -> np.ndarray:
        left = min(self._shard_frames, self._frames - shard * self._shard_frames)
        chunks = map_shard(
            Path(self._file(shard)),
            self._shard_frames // INNER_FRAMES,
            -(-left // INNER_FRAMES),  # the last shard may have fewer
            INNER_FRAMES * self._frame_bytes,
        )
        mapped = chunks.view(self._info.dtype).reshape(-1, self._info.frame_size)
        self._maps[shard] = mapped  # bytes -> (shard frames, D)
        return mapped


def _is_mappable(meta: dict[str, Any], info: StoreInfo) -> bool:
    """Whether an array's metadata says that its shards hold plain frames, in whole chunks."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    plain = {"name": "bytes"} if info.dtype.itemsize == 1 else little
    codecs, shard = meta["codecs"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    return (
        len(codecs) == 1
        and codecs[0]["name"] == "sharding_indexed"
        and codecs[0]["configuration"]["codecs"] in ([plain], [little])
        and codecs[0]["configuration"]["index_codecs"] == [little, {"name": "crc32c"}]
        and codecs[0]["configuration"].get("index_location", "end") == "end"
        and codecs[0]["configuration"]["chunk_shape"] == [INNER_FRAMES, info.frame_size]
        and shard[0] > 0
        and shard[0] % INNER_FRAMES == 0
    )


@contextmanager
def _opened(file: str) -> Iterator[int]:
    handle = os.open(file, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)
