"""One part as it is written. In: rows. Out: a Zarr v3 group with their frames and columns.

docs/cache-format.md describes what lies on disk; `part` reads it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from rellm_cache.specs import digest
from rellm_cache.store.layout import FRAMES, INNER_FRAMES, SHARD_BYTES, Frames, StoreInfo, seal
from rellm_cache.store.quantisation import Quantisation
from rellm_cache.store.shard_writer import ShardWriter


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


def write_part(
    path: Path,
    rows: list[Row],
    info: StoreInfo,
    quantisation: Quantisation | None = None,
    writers: Sequence[dict[str, str]] = (),
) -> None:
    """Write a whole part as a Zarr v3 group at `path`; fsync and renaming are the caller's.

    Args:
        info: of the store it is for; the part carries it, so that one mends the other.
        quantisation: what the values of an int8 store stand for; None for float16.
        writers: what made the frames, as `devices.describe_machine` says it; several after a
            merge.

    Raises:
        ValueError: an int8 store without quantisation, or another store with one.
    """
    if (info.dtype == np.int8) != (quantisation is not None):
        raise ValueError(f"a part of {info.dtype} frames with quantisation {quantisation}")
    group = zarr.create_group(str(path))
    total = sum(len(row.frames) for row in rows)
    create_frames(group, total, info)  # the metadata alone: zarr is slow at shards
    chunks = shard_frames(total, info) // INNER_FRAMES
    with ShardWriter(path / FRAMES, chunks, INNER_FRAMES * info.frame_bytes) as shards:
        clips = (np.ascontiguousarray(row.frames, info.dtype) for row in rows)
        checksums = [shards.write(clip.view(np.uint8)) for clip in clips]
    ids = [row.id.encode() for row in rows]
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


def shard_frames(total: int, info: StoreInfo) -> int:
    """S, the frames of a shard, in a part of `total` frames."""
    largest = SHARD_BYTES // info.frame_bytes // INNER_FRAMES * INNER_FRAMES
    return min(largest, -(-total // INNER_FRAMES) * INNER_FRAMES)


def create_frames(group: zarr.Group, total: int, info: StoreInfo) -> zarr.Array[Any]:
    """The array of a part's frames, (total, D), without values yet."""
    return group.create_array(
        FRAMES,
        shape=(total, info.frame_size),
        dtype=info.dtype,
        chunks=(INNER_FRAMES, info.frame_size),
        shards=(shard_frames(total, info), info.frame_size),
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
