"""One immutable part of a store. In: rows to write, or a committed part's folder. Out: frames.

Frames of all utterances of a part lie end to end in one uncompressed sharded array, so an
utterance is a slice of a memory-mapped file. Every shard's index is checked before its frames are
believed: a missing file or chunk is an error, never zeros.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from rellm_cache.config import digest
from rellm_cache.errors import StoreError
from rellm_cache.store.layout import INNER_FRAMES, SHARD_BYTES, StoreInfo, damaged, seal, unreadable

FRAMES = "frames"
Frames = NDArray[np.float16]


@dataclass(frozen=True)
class Row:
    """One utterance to store.

    Attributes:
        id: of the utterance.
        audio_sha256: (32,) uint8 digest of the audio it was made from.
        frames: (L, D) float16.
        vad: (3,) float32 from the encoder's own head, or None.
    """

    id: str
    audio_sha256: np.ndarray
    frames: Frames
    vad: np.ndarray | None = None


def frames_crc32c(frames: np.ndarray) -> int:
    """CRC-32C of an utterance's frames as stored: little-endian float16, frame after frame."""
    return int(google_crc32c.value(np.ascontiguousarray(frames).tobytes()))


def write_part(
    path: Path, rows: list[Row], info: StoreInfo, writers: Sequence[dict[str, str]] = ()
) -> None:
    """Write a whole part as a Zarr v3 group at `path`; fsync and renaming are the caller's.

    Args:
        info: of the store it is for; the part carries it, so that one mends the other.
        writers: what made the frames, as `devices.describe` says it; several after a merge.
    """
    frames = np.concatenate([row.frames for row in rows])  # N x (L, D) -> (F, D)
    ids = [row.id.encode() for row in rows]
    columns: dict[str, np.ndarray] = {
        "offsets": _offsets([len(row.frames) for row in rows]),
        "ids": np.frombuffer(b"".join(ids), np.uint8),
        "id_offsets": _offsets([len(i) for i in ids]),
        "audio_sha256": np.stack([row.audio_sha256 for row in rows]),
        "frames_crc32c": np.array([frames_crc32c(row.frames) for row in rows], np.uint32),
    }
    if all(row.vad is not None for row in rows):
        columns["vad"] = np.stack([row.vad for row in rows if row.vad is not None])
    group = zarr.create_group(str(path))
    create_frames(group, *frames.shape)[:] = frames
    for name, column in columns.items():
        create_column(group, name, column.shape, column.dtype)[:] = column
    own = {
        "utterances": len(rows),
        "arrays": {name: array_digest(path / name) for name in (FRAMES, *columns)},
        "store": info.to_attributes()["rellm"],
        "writers": list(writers),
    }
    group.update_attributes({"rellm": seal(own)})


def array_digest(path: Path) -> str:
    """SHA-256 (hex) of an array's metadata, as JSON in canonical form."""
    return digest(json.loads((path / "zarr.json").read_text("utf-8")))


def shard_frames(total: int, frame_size: int) -> int:
    """S, the frames of a shard, in a part of `total` frames."""
    largest = SHARD_BYTES // (2 * frame_size) // INNER_FRAMES * INNER_FRAMES
    return min(largest, -(-total // INNER_FRAMES) * INNER_FRAMES)


def create_frames(group: zarr.Group, total: int, frame_size: int) -> zarr.Array[Any]:
    """The array of a part's frames, (total, frame_size), without values yet."""
    return group.create_array(
        FRAMES,
        shape=(total, frame_size),
        dtype="float16",
        chunks=(INNER_FRAMES, frame_size),
        shards=(shard_frames(total, frame_size), frame_size),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )


def create_column(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> zarr.Array[Any]:
    """One of a part's small arrays, without values yet."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=shape,
        compressors=[zarr.codecs.Crc32cCodec()],
        filters=None,
        config={"write_empty_chunks": True},
    )


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


class Part:
    """A committed part. The small columns load when first asked for; shards are mapped lazily."""

    def __init__(self, path: Path, frame_size: int) -> None:
        self.path = path
        self.frame_size = frame_size
        self._maps: dict[int, np.ndarray] = {}

    def _column(self, name: str) -> np.ndarray:
        try:
            array = zarr.open_array(str(self.path / name), mode="r")
            only_chunk = self.path.joinpath(name, "c", *("0" * array.ndim))
            if not only_chunk.is_file():  # zarr would read zeros
                raise FileNotFoundError(f"{only_chunk} is missing")
            return np.asarray(array[:])
        except PermissionError as error:
            raise unreadable(self.path / name, error) from error
        except Exception as error:  # zarr raises anything at all at metadata with a flipped bit
            raise self._damaged(f"column {name!r} cannot be read ({error})") from error

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(N+1,) first frame of each utterance, and the end of the last."""
        return self._column("offsets")

    @cached_property
    def ids(self) -> list[str]:
        """N utterance ids, in the order of their frames."""
        text, ends = self._column("ids").tobytes(), self._column("id_offsets").tolist()
        if ends[-1] != len(text) or len(ends) != len(self.offsets):
            raise self._damaged("its columns do not belong together")
        return [text[a:b].decode() for a, b in itertools.pairwise(ends)]

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

    def frames(self, row: int) -> Frames:
        """(L, D) frames of one utterance: a read-only view of the mapped file where it can be."""
        start, stop = int(self.offsets[row]), int(self.offsets[row + 1])
        shard_rows = self._shard_rows
        if shard_rows is None:
            return self._frames_through_zarr(row, start, stop)
        pieces = []
        while start < stop:
            shard = start // shard_rows
            end = min(stop, (shard + 1) * shard_rows)
            mapped = self._maps.get(shard)
            if mapped is None:
                mapped = self._maps[shard] = self._map_shard(shard, shard_rows)
            pieces.append(mapped[start - shard * shard_rows : end - shard * shard_rows])
            start = end
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    @cached_property
    def _shard_rows(self) -> int | None:
        """Frames in a shard where shards can be mapped; None where zarr must decode them."""
        try:
            meta = json.loads((self.path / "frames" / "zarr.json").read_text("utf-8"))
            return _mapped_shard_rows(meta, self.frame_size)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._damaged(f"metadata of frames cannot be read ({error!r})") from error

    def _map_shard(self, shard: int, shard_rows: int) -> Frames:
        """Map one shard file after checking that its index is whole and its chunks in order."""
        file = self.path / "frames" / "c" / str(shard) / "0"
        chunks = shard_rows // INNER_FRAMES
        chunk_bytes = INNER_FRAMES * self.frame_size * 2
        index_bytes = 16 * chunks + 4
        try:
            data: np.ndarray = np.memmap(file, np.uint8, "r")
        except PermissionError as error:
            raise unreadable(file, error) from error
        except (OSError, ValueError) as error:
            raise self._damaged(f"{file} cannot be mapped ({error})") from error
        if len(data) != chunks * chunk_bytes + index_bytes:
            total = self._total_frames
            covered = -(-min(shard_rows, total - shard * shard_rows) // INNER_FRAMES)
            if len(data) != covered * chunk_bytes + index_bytes:
                raise self._damaged(
                    f"{file} has {len(data)} bytes, expected {covered * chunk_bytes + index_bytes}"
                )
            chunks_present = covered
        else:
            chunks_present = chunks
        index = data[-index_bytes:-4]
        if google_crc32c.value(index.tobytes()) != int(data[-4:].view("<u4")[0]):
            raise self._damaged(f"{file}: the checksum of its index is wrong")
        entries = index.view("<u8").reshape(chunks, 2)[:chunks_present]  # offset, length
        order = np.arange(chunks_present, dtype=np.uint64) * np.uint64(chunk_bytes)
        if not (np.array_equal(entries[:, 0], order) and (entries[:, 1] == chunk_bytes).all()):
            raise self._damaged(f"{file}: its index misses chunks or holds them out of order")
        frames = data[: chunks_present * chunk_bytes].view("<f2")
        return frames.reshape(-1, self.frame_size)  # bytes -> (shard rows, D)

    @cached_property
    def _total_frames(self) -> int:
        return int(self.offsets[-1])

    def _frames_through_zarr(self, row: int, start: int, stop: int) -> Frames:
        try:
            array = zarr.open_array(str(self.path / FRAMES), mode="r")
            frames = np.asarray(array[start:stop])
        except Exception as error:  # as above
            raise self._damaged(f"frames cannot be read ({error})") from error
        # A chunk that is gone would read as zeros: only the checksum tells.
        if frames_crc32c(frames) != int(self.frames_crc32c[row]):
            raise self._damaged(f"frames of {self.ids[row]!r} do not match their checksum")
        return frames

    def _damaged(self, what: str) -> StoreError:
        return damaged(self.path, what)


def _mapped_shard_rows(meta: dict[str, Any], frame_size: int) -> int | None:
    """Frames in a shard by the metadata of an array of frames, if its shards can be mapped."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs = meta["codecs"]
    plain = (
        len(codecs) == 1
        and codecs[0]["name"] == "sharding_indexed"
        and codecs[0]["configuration"]["codecs"] == [little]
        and codecs[0]["configuration"]["index_codecs"] == [little, {"name": "crc32c"}]
        and codecs[0]["configuration"].get("index_location", "end") == "end"
        and codecs[0]["configuration"]["chunk_shape"] == [INNER_FRAMES, frame_size]
        and meta["data_type"] == "float16"
    )
    rows = int(meta["chunk_grid"]["configuration"]["chunk_shape"][0])
    return rows if plain and rows > 0 and rows % INNER_FRAMES == 0 else None
