"""Writer of shard files, clip by clip, with the same bytes that zarr would write.

zarr encodes chunk by chunk, which is slower. docs/cache-format.md gives the layout.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from rellm_cache.utils.sync import sync_path

MISSING = np.uint64(2**64 - 1)


def shard_index(chunks: int, present: int, chunk_bytes: int) -> bytes:
    """Return a shard's index, without checksum, for `present` chunks in order without gaps."""
    index = np.full((chunks, 2), MISSING, "<u8")  # offset, length
    index[:present, 0] = np.arange(present, dtype=np.uint64) * np.uint64(chunk_bytes)
    index[:present, 1] = chunk_bytes
    return index.tobytes()


class ShardWriter:
    """Writes the shards of one layer's frames (F, D) in order; F is known only at the end.

    Call `finish` to complete the shards, and always call `close`. A full shard has `chunks` chunks
    of `chunk_bytes`; the index of a single shard has only the chunks it holds. Shard k is the file
    `<folder>/<k>/0`.
    """

    def __init__(self, folder: Path, chunks: int, chunk_bytes: int) -> None:
        self._folder = folder
        self._chunks = chunks
        self._chunk_bytes = chunk_bytes
        self._file: BinaryIO | None = None
        self._shard = 0
        self._written = 0  # bytes in the open shard
        # A complete shard is synced while the next one is filled.
        self._syncing = ThreadPoolExecutor(1, "rellm-sync")
        self._synced: list[Future[None]] = []

    def close(self) -> None:
        """Close the open file and end the syncing thread."""
        self._syncing.shutdown()
        if self._file is not None:
            self._file.close()

    def write(self, clip: NDArray[np.uint8]) -> int:
        """Append the bytes of one clip's frames and return their CRC-32C."""
        rest = clip.reshape(-1).data
        whole = self._chunks * self._chunk_bytes
        while rest:
            if self._file is None:
                path = self._folder / str(self._shard) / "0"
                # Fail if the folder was removed after its first shard.
                path.parent.mkdir(parents=not self._shard)
                self._file = path.open("wb")
            count = self._file.write(rest[: whole - self._written])
            self._written += count
            rest = rest[count:]
            if self._written == whole:
                self._complete()
        return int(google_crc32c.value(clip))

    def finish(self) -> None:
        """Complete the last shard and wait until all shards are on disk."""
        self._complete()
        for synced in self._synced:
            synced.result()  # the system reports a disk error only once

    def _complete(self) -> None:
        """Pad the open shard to whole chunks and append its index."""
        if self._file is None:
            return
        present = -(-self._written // self._chunk_bytes)
        self._file.write(bytes(present * self._chunk_bytes - self._written))
        entries = shard_index(self._chunks if self._shard else present, present, self._chunk_bytes)
        self._file.write(entries + google_crc32c.value(entries).to_bytes(4, "little"))
        self._file.close()
        self._synced.append(self._syncing.submit(sync_path, Path(self._file.name)))
        self._file, self._written, self._shard = None, 0, self._shard + 1
