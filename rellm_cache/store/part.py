"""One immutable part of a store. In: rows to write, or a committed part's folder. Out: frames.

Frames of all utterances of a part lie end to end in one uncompressed sharded array, so an
utterance is a slice of a memory-mapped file (`shards`). Frames in other codecs are read through
zarr and compared with their checksum. Either way a missing chunk is an error, never zeros.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import google_crc32c
import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from rellm_cache.errors import StoreError
from rellm_cache.store.column import read_column
from rellm_cache.store.layout import INNER_FRAMES, SHARD_BYTES
from rellm_cache.store.quantisation import Quantisation
from rellm_cache.store.shard_writer import ShardWriter
from rellm_cache.store.shards import MappedShards, ShardError

Frames = NDArray[np.float16] | NDArray[np.int8]


@dataclass(frozen=True)
class Row:
    """One utterance to store.

    Attributes:
        id: of the utterance.
        audio_sha256: (32,) uint8 digest of the audio it was made from.
        frames: (L, D) float16, or int8 in a quantised store.
        vad: (3,) float32 from the encoder's own head, or None.
    """

    id: str
    audio_sha256: np.ndarray
    frames: Frames
    vad: np.ndarray | None = None


def frames_crc32c(frames: np.ndarray) -> int:
    """CRC-32C of an utterance's frames as stored: little-endian values, frame after frame."""
    return int(google_crc32c.value(np.ascontiguousarray(frames).tobytes()))


def write_part(
    path: Path, rows: list[Row], frame_size: int, quantisation: Quantisation | None = None
) -> None:
    """Write a whole part as a Zarr v3 group at `path`; fsync and renaming are the caller's.

    Args:
        quantisation: of int8 frames; None for float16.
    """
    group = zarr.create_group(str(path), attributes={"rellm": {"utterances": len(rows)}})
    ids = [row.id.encode() for row in rows]
    dtype = np.dtype("float16" if quantisation is None else "int8")
    frames = sum(len(row.frames) for row in rows)
    shard_frames = SHARD_BYTES // (dtype.itemsize * frame_size) // INNER_FRAMES * INNER_FRAMES
    shard_frames = min(shard_frames, -(-frames // INNER_FRAMES) * INNER_FRAMES)
    group.create_array(  # the metadata alone: zarr is slow at shards
        "frames",
        shape=(frames, frame_size),
        dtype=dtype,
        chunks=(INNER_FRAMES, frame_size),
        shards=(shard_frames, frame_size),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )
    clips = (np.ascontiguousarray(row.frames, dtype).tobytes() for row in rows)
    chunk_bytes = INNER_FRAMES * frame_size * dtype.itemsize
    with ShardWriter(path / "frames", shard_frames // INNER_FRAMES, chunk_bytes) as shards:
        checksums = [shards.write(clip) for clip in clips]
    columns: dict[str, np.ndarray] = {
        "offsets": _offsets([len(row.frames) for row in rows]),
        "ids": np.frombuffer(b"".join(ids), np.uint8),
        "id_offsets": _offsets([len(i) for i in ids]),
        "audio_sha256": np.stack([row.audio_sha256 for row in rows]),
        "frames_crc32c": np.array(checksums, np.uint32),
    }
    if all(row.vad is not None for row in rows):
        columns["vad"] = np.stack([row.vad for row in rows if row.vad is not None])
    if quantisation is not None:
        columns |= {"scale": quantisation.scale, "mean": quantisation.mean}
    for name, column in columns.items():
        small = group.create_array(
            name,
            shape=column.shape,
            dtype=column.dtype,
            chunks=column.shape,
            compressors=[zarr.codecs.Crc32cCodec()],
            filters=None,
            config={"write_empty_chunks": True},
        )
        small[:] = column


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


class Part:
    """A committed part. The small columns load when first asked for; shards are mapped lazily.

    Args:
        path: its folder.
        frame_size: D.
        dtype: of stored values, as the store's encoder spec says.
    """

    def __init__(self, path: Path, frame_size: int, dtype: str = "float16") -> None:
        self.path = path
        self.frame_size = frame_size
        self.dtype = np.dtype(dtype)

    def _column(self, name: str) -> np.ndarray:
        try:
            return read_column(self.path / name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{self.path}: column {name!r} cannot be read ({error}); the part is damaged: "
                "move its folder out of the store and run `rellm extract` again"
            ) from error

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(N+1,) first frame of each utterance, and the end of the last."""
        return self._column("offsets")

    def id_columns(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The ids end to end, and the (N+1,) offset of each: what the store's index is made of."""
        return self._column("ids"), self._column("id_offsets")

    @cached_property
    def ids(self) -> list[str]:
        """N utterance ids, in the order of their frames."""
        column, ends = self.id_columns()
        text = column.tobytes()
        return [text[a:b].decode() for a, b in itertools.pairwise(ends.tolist())]

    @cached_property
    def audio_sha256(self) -> NDArray[np.uint8]:
        """(N, 32) digests of the source audio."""
        return self._column("audio_sha256")

    @cached_property
    def frames_crc32c(self) -> NDArray[np.uint32]:
        """(N,) checksum of each utterance's frames."""
        return self._column("frames_crc32c")

    @cached_property
    def vad(self) -> np.ndarray | None:
        """(N, 3) float32 arousal, dominance, valence of the encoder's head, if it has one."""
        return self._column("vad") if (self.path / "vad").exists() else None

    @cached_property
    def quantisation(self) -> Quantisation | None:
        """What int8 values stand for; None where frames are float16."""
        if self.dtype == np.float16:
            return None
        return Quantisation(self._column("scale"), self._column("mean"))

    def length(self, row: int) -> int:
        """L, the number of frames of one utterance."""
        return int(self._bounds[row + 1] - self._bounds[row])

    def frames(self, row: int) -> Frames:
        """(L, D) frames of one utterance: a read-only view of the mapped file where it can be."""
        start, stop = self._bounds[row], self._bounds[row + 1]
        if self._shards is None:
            return self._frames_through_zarr(row, start, stop)
        try:
            return self._shards.read(start, stop)
        except ShardError as error:
            raise self._damaged(str(error)) from error

    def is_cached(self, row: int) -> bool:
        """Whether an utterance's frames seem to be in memory: their first value is."""
        return self._shards is None or self._shards.is_cached(self._bounds[row])

    def read_ahead(self, row: int) -> None:
        """Ask the system to load the frames of one utterance, without waiting for them."""
        if self._shards is not None:
            self._shards.read_ahead(self._bounds[row], self._bounds[row + 1])

    def close(self) -> None:
        """Drop the maps of the shard files; the next read makes them again."""
        if self._shards is not None:
            self._shards.forget()

    @cached_property
    def _bounds(self) -> memoryview:
        """`offsets`, of which single items are read as Python integers."""
        return np.ascontiguousarray(self.offsets, np.int64).data

    @cached_property
    def _shards(self) -> MappedShards | None:
        """The shard files; None where zarr must decode frames."""
        try:
            return MappedShards.open(
                self.path / "frames", int(self.offsets[-1]), self.frame_size, self.dtype
            )
        except ShardError as error:
            raise StoreError(f"{self.path}: damaged, {error}") from error

    def _frames_through_zarr(self, row: int, start: int, stop: int) -> Frames:
        array = zarr.open_array(str(self.path / "frames"), mode="r")
        frames = np.asarray(array[start:stop])
        # A chunk that is gone would read as zeros: only the checksum tells.
        if frames_crc32c(frames) != int(self.frames_crc32c[row]):
            raise self._damaged(f"frames of {self.ids[row]!r} do not match their checksum")
        return frames

    def _damaged(self, what: str) -> StoreError:
        return StoreError(
            f"{self.path}: damaged: {what}; move this part's folder out of the store and run "
            "`rellm extract` again, which makes its clips anew"
        )
