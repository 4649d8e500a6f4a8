"""Memory-mapped shard files of a part, read as views of frame ranges.

A shard is mapped at its first use, and its size and index are checked then. A missing file or chunk
is an error; it never reads as zeros.
"""

import contextlib
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
from rellm_cache.store.format import FRAMES, INNER_FRAMES, StoreInfo
from rellm_cache.store.part_writer import shard_folders
from rellm_cache.store.remote.download import open_shard, part_of_frames, part_origin_url
from rellm_cache.store.shard_writer import shard_index
from rellm_cache.utils.json_files import load

# Codecs of uncompressed values, in zarr.json.
ONE_BYTE = {"name": "bytes"}
LITTLE_ENDIAN = {"name": "bytes", "configuration": {"endian": "little"}}


class ShardError(Exception):
    """A damaged shard; the caller adds the part and the repair."""


def shard_file_bytes(chunks: int, present: int, chunk_bytes: int) -> int:
    """Return the size of a shard file with `present` chunks and an index of `chunks` entries."""
    return present * chunk_bytes + 16 * chunks + 4


def allow_open_files(more: int) -> None:
    """Raise this process's limit of open files by `more`, as far as the system allows.

    Each mapped shard keeps its file open; the usual limit of 1,024 files is reached at 64 GB.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if more > soft // 4:
        wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def map_shard(file: Path, chunks: int, present: int, chunk_bytes: int) -> NDArray[np.uint8]:
    """Map one shard file, check its size and index, and return its inner chunks end to end.

    Its index has `chunks` entries, for at least `present` chunks; a full shard is accepted too.
    Raises `ShardError` if the file is missing or has another layout; `UnreadableError` if it cannot
    be read or downloaded now; `StoreError` if its part was removed from the object store, or a
    mirror has no space.
    """
    try:
        with open_shard(file) as opened:
            data = np.asarray(np.memmap(opened, np.uint8, "r"))
    except (*MISSING_FILE_ERRORS, ValueError) as error:
        raise ShardError(f"{file} cannot be mapped ({error})") from error
    except OSError as error:
        raise unreadable_error(file, error) from error
    if len(data) == shard_file_bytes(chunks, chunks, chunk_bytes):
        present = chunks
    expected = shard_file_bytes(chunks, present, chunk_bytes)
    if len(data) != expected:
        raise ShardError(f"{file} has {len(data)} bytes, expected {expected}")
    body, index, checksum = np.split(data, [present * chunk_bytes, expected - 4])
    if google_crc32c.value(index) != int(checksum.view("<u4")[0]):
        raise ShardError(f"{file}: the checksum of its index is wrong")
    if index.tobytes() != shard_index(chunks, present, chunk_bytes):
        raise ShardError(f"{file}: its index misses chunks or holds them out of order")
    return body


class MappedShards:
    """The shard files of one layer's uncompressed frames (F, D), in the layout of `write_part`.

    Each file holds S = `shard_frames` frames, except the last; F = `frames` is the total.
    """

    def __init__(self, folder: Path, shard_frames: int, frames: int, info: StoreInfo) -> None:
        self._folder = folder
        self._shard_frames = shard_frames
        self._frames = frames
        self._info = info
        self._frame_bytes = info.frame_bytes
        self._maps: dict[int, np.ndarray] = {}

    @classmethod
    def open(cls, part: Path, frames: int, info: StoreInfo) -> "list[MappedShards] | None":
        """Open the shards of each layer of a part; None if its frames have codecs that need zarr.

        Raises `ShardError` if the array's metadata is damaged or has another data type. Raises
        `UnreadableError` if it exists but cannot be read.
        """
        folder = part / FRAMES
        file = folder / "zarr.json"
        try:
            meta = load(file)
            found = meta["data_type"]
            mappable = _is_mappable(meta, info)
            shard_frames = int(meta["chunk_grid"]["configuration"]["chunk_shape"][-2])
        except (*MISSING_FILE_ERRORS, ValueError, LookupError, TypeError, OverflowError) as error:
            raise ShardError(f"metadata of frames cannot be read ({error!r})") from error
        except OSError as error:
            raise unreadable_error(file, error) from error
        if found != info.dtype.name:
            raise ShardError(
                f"{folder}: frames are {found}, the store's encoder says {info.dtype.name}"
            )
        if not mappable:
            return None
        return [cls(layer, shard_frames, frames, info) for layer in shard_folders(part, info)]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return (stop - start, D) frames, read-only: a view if one shard holds them all.

        Raises `ShardError` if a shard is missing or truncated, or its index is wrong.
        """
        shard = start // self._shard_frames
        base = shard * self._shard_frames
        if stop <= base + self._shard_frames:
            mapped = self._maps.get(shard)
            return (self.map(shard) if mapped is None else mapped)[start - base : stop - base]
        edge = base + self._shard_frames
        return np.concatenate([self.read(start, edge), self.read(edge, stop)])

    @property
    def nbytes(self) -> int:
        """Total size of all shard files, downloaded or not."""
        chunks = self._shard_frames // INNER_FRAMES
        full, rest = divmod(self._frames, self._shard_frames)
        last = -(-rest // INNER_FRAMES)
        sizes = [shard_file_bytes(chunks, chunks, INNER_FRAMES * self._frame_bytes)] * full
        if last:
            sizes.append(shard_file_bytes(chunks, last, INNER_FRAMES * self._frame_bytes))
        return sum(sizes)

    def is_cached(self, start: int) -> bool:
        """Return whether a frame is in the page cache; False if the system cannot tell."""
        shard, frame = divmod(start, self._shard_frames)
        try:
            with _opened(self.file(shard)) as handle:
                byte = frame * self._frame_bytes
                return os.preadv(handle, [bytearray(1)], byte, os.RWF_NOWAIT) == 1
        except (OSError, AttributeError):  # not in the page cache, or no such call on this system
            return False

    def read_ahead(self, start: int, stop: int) -> None:
        """Ask the system to load a range of frames in the background.

        In a mirror, missing shards are downloaded first, in the foreground.
        """
        for shard in range(start // self._shard_frames, (stop - 1) // self._shard_frames + 1):
            base = shard * self._shard_frames
            first = max(start - base, 0) * self._frame_bytes
            last = min(stop - base, self._shard_frames) * self._frame_bytes
            # Errors are reported when the frames are read; some systems have no such call.
            with (
                contextlib.suppress(OSError, AttributeError, RellmError),
                self._open_for_advice(shard) as handle,
            ):
                os.posix_fadvise(handle, first, last - first, os.POSIX_FADV_WILLNEED)

    @contextmanager
    def _open_for_advice(self, shard: int) -> Iterator[int]:
        """Open a shard file; in a mirror it is downloaded if missing, and kept from eviction."""
        if self._is_plain:  # takes a third of the time
            with _opened(self.file(shard)) as handle:
                yield handle
        else:
            with open_shard(Path(self.file(shard))) as opened:
                yield opened.fileno()

    @cached_property
    def _is_plain(self) -> bool:
        """Whether the part is in a plain folder, not in a mirror of an object store."""
        return part_origin_url(part_of_frames(self._folder)) is None

    def close(self) -> None:
        """Drop all maps."""
        self._maps.clear()

    def file(self, shard: int) -> str:
        """Return the path of one shard file."""
        return f"{self._folder}/{shard}/0"

    def map(self, shard: int) -> np.ndarray:
        """Map one shard file and return its (frames, D) values; those of the last include padding.

        Raises `ShardError` if it is missing or truncated, or its index is wrong.
        """
        left = min(self._shard_frames, self._frames - shard * self._shard_frames)
        chunks = map_shard(
            Path(self.file(shard)),
            self._shard_frames // INNER_FRAMES,
            -(-left // INNER_FRAMES),  # the last shard may hold fewer
            INNER_FRAMES * self._frame_bytes,
        )
        mapped = chunks.view(self._info.dtype).reshape(-1, self._info.frame_size)
        self._maps[shard] = mapped  # bytes -> (shard frames, D)
        return mapped


def _is_mappable(meta: dict[str, Any], info: StoreInfo) -> bool:
    """Return whether an array's shards hold uncompressed frames in our chunk layout."""
    plain = ONE_BYTE if info.dtype.itemsize == 1 else LITTLE_ENDIAN
    codecs, shard = meta["codecs"], meta["chunk_grid"]["configuration"]["chunk_shape"]
    one = [1] if info.spec.layer_numbers else []
    return (
        len(codecs) == 1
        and codecs[0]["name"] == "sharding_indexed"
        and codecs[0]["configuration"]["codecs"] in ([plain], [LITTLE_ENDIAN])
        and codecs[0]["configuration"]["index_codecs"] == [LITTLE_ENDIAN, {"name": "crc32c"}]
        and codecs[0]["configuration"].get("index_location", "end") == "end"
        and codecs[0]["configuration"]["chunk_shape"] == [*one, INNER_FRAMES, info.frame_size]
        and shard[:-2] == one
        and shard[-2] > 0
        and shard[-2] % INNER_FRAMES == 0
    )


@contextmanager
def _opened(file: str) -> Iterator[int]:
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)  # never waits for a pipe
    try:
        yield handle
    finally:
        os.close(handle)
