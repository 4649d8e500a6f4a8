"""Shard files as they lie on disk. In: frames, clip after clip. Out: the files of an array.

docs/cache-format.md gives the bytes; `shards` maps them. The files are those that zarr writes for
the same array, to the byte, made without encoding chunk by chunk.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from rellm_cache.utils.atomic_files import sync_path

MISSING = np.uint64(2**64 - 1)


def shard_index(chunks: int, present: int, chunk_bytes: int) -> bytes:
    """The index of a shard without its checksum: `present` of its chunks in order, no gaps."""
    index = np.full((chunks, 2), MISSING, "<u8")  # offset, length
    index[:present, 0] = np.arange(present, dtype=np.uint64) * np.uint64(chunk_bytes)
    index[:present, 1] = chunk_bytes
    return index.tobytes()


class ShardWriter:
    """Fills the shards of one array (F, D) from start to end, F being known at the end alone.

    Only `finish` makes the array whole; `close` comes last, whatever happened.

    Args:
        folder: of the array.
        chunks: in a shard, where the array has more than one; a shard that is the only one has as
            many as it holds.
        chunk_bytes: of one inner chunk.
    """

    def __init__(self, folder: Path, chunks: int, chunk_bytes: int) -> None:
        self._folder = folder
        self._chunks = chunks
        self._chunk_bytes = chunk_bytes
        self._file: BinaryIO | None = None
        self._shard = 0
        self._written = 0  # bytes in the open shard
        # A complete shard goes to disk while the next one is filled.
        self._syncing = ThreadPoolExecutor(1, "rellm-sync")
        self._synced: list[Future[None]] = []

    def close(self) -> None:
        """Let go of its file and its thread."""
        self._syncing.shutdown()
        if self._file is not None:
            self._file.close()

    def write(self, clip: NDArray[np.uint8]) -> int:
        """Append the bytes of one clip's frames and return their CRC-32C."""
        rest = clip.reshape(-1).data
        whole = self._chunks * self._chunk_bytes
        while rest:
            if self._file is None:
                path = self._folder / "c" / str(self._shard) / "0"
                # A folder that was removed meanwhile, with shards in it, is not made again.
                path.parent.mkdir(parents=not self._shard)
                self._file = path.open("wb")
            count = self._file.write(rest[: whole - self._written])
            self._written += count
            rest = rest[count:]
            if self._written == whole:
                self._complete()
        return int(google_crc32c.value(clip))

    def finish(self) -> None:
        """Complete the last shard; every shard is on disk then."""
        self._complete()
        for synced in self._synced:
            synced.result()  # an error of the disk is told once only

    def _complete(self) -> None:
        """Pad the open shard to whole chunks and add its index."""
        if self._file is None:
            return
        present = -(-self._written // self._chunk_bytes)
        self._file.write(bytes(present * self._chunk_bytes - self._written))
        entries = shard_index(self._chunks if self._shard else present, present, self._chunk_bytes)
        self._file.write(entries + google_crc32c.value(entries).to_bytes(4, "little"))
        self._file.close()
        self._synced.append(self._syncing.submit(sync_path, Path(self._file.name)))
        self._file, self._written, self._shard = None, 0, self._shard + 1
