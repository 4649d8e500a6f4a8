"""Writer of one part: a Zarr v3 group of frames, columns and checksums.

docs/cache-format.md specifies the files; `part` reads them.
"""

import errno
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from rellm_cache.config.specs import digest
from rellm_cache.store.format import FRAMES, INNER_FRAMES, Frames, StoreInfo, add_checksum
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.shard_writer import ShardWriter
from rellm_cache.utils.json_files import load


@dataclass(frozen=True)
class Row:
    """One utterance to store."""

    id: str  # of the utterance
    audio_sha256: np.ndarray  # (32,) uint8 digest of its audio
    frames: Frames  # (L, D) of the store's type, (L, K, D) in a store of K layers
    # (3,) float32 arousal, dominance, valence of the encoder's head, or None
    vad: np.ndarray | None = None


@dataclass(frozen=True)
class _Written:
    """A row in the columns; its frames are written already."""

    id: bytes
    length: int
    checksums: list[int]  # of each layer
    audio_sha256: np.ndarray
    vad: np.ndarray | None


class PartWriter:
    """Writes one part at `path`: frames as rows are added, columns and metadata in `finish`.

    Always call `close`. The caller syncs the columns and renames the part.

    Args:
        path: of the part; must not exist.
        info: attributes of the store; a repair can restore them from the part's copy.
        quantization: scale and mean of an int8 store; None for other types.
    """

    def __init__(
        self, path: Path, info: StoreInfo, quantization: Quantization | None = None
    ) -> None:
        if (info.dtype == np.int8) != (quantization is not None):
            raise ValueError(f"a part of {info.dtype} frames with quantization {quantization}")
        self._path, self._info, self._quantization = path, info, quantization
        chunks = max_shard_frames(info) // INNER_FRAMES
        self._layers = [
            ShardWriter(folder, chunks, INNER_FRAMES * info.frame_bytes)
            for folder in shard_folders(path, info)
        ]
        self._written: list[_Written] = []
        self._torn = False  # whether a clip was written incompletely

    def close(self) -> None:
        """Close the open shard files."""
        for shards in self._layers:
            shards.close()

    def add(self, row: Row) -> None:
        """Write a row's frames; after an `OSError` the part cannot be finished."""
        self._require_sound()
        self._torn = True
        checksums = []
        for layer, shards in enumerate(self._layers):
            frames = row.frames[:, layer] if self._info.spec.layer_numbers else row.frames  # (L, D)
            frames = np.ascontiguousarray(frames, self._info.dtype)
            checksums.append(shards.write(frames.view(np.uint8)))
        self._written.append(
            _Written(row.id.encode(), len(row.frames), checksums, row.audio_sha256, row.vad)
        )
        self._torn = False

    def finish(self, writers: Sequence[dict[str, str]] = ()) -> None:
        """Write columns and metadata.

        `writers` are the machines that made the frames (`devices.describe_machine`): several after
        a merge.
        """
        self._require_sound()
        for shards in self._layers:
            shards.finish()
        rows = self._written
        offsets = _offsets([row.length for row in rows])
        group = zarr.create_group(str(self._path))
        create_frames(group, int(offsets[-1]), self._info)  # metadata only: zarr is slow at shards
        columns: dict[str, np.ndarray] = {
            "offsets": offsets,
            "ids": np.frombuffer(b"".join(row.id for row in rows), np.uint8),
            "id_offsets": _offsets([len(row.id) for row in rows]),
            "audio_sha256": np.stack([row.audio_sha256 for row in rows]),
            "frames_crc32c": _checksums(rows, self._info),
        }
        if all(row.vad is not None for row in rows):
            columns["vad"] = np.stack([row.vad for row in rows if row.vad is not None])
        if self._quantization is not None:
            columns |= {"scale": self._quantization.scale, "mean": self._quantization.mean}
        for name, column in columns.items():
            create_column(group, name, column.shape, column.dtype)[:] = column
        own = {
            "utterances": len(rows),
            "arrays": {name: array_digest(self._path / name) for name in (FRAMES, *columns)},
            "store": self._info.to_attributes()["rellm"],
            "writers": list(writers),
        }
        group.update_attributes({"rellm": add_checksum(own)})

    def _require_sound(self) -> None:
        if self._torn:
            raise OSError(errno.EIO, "a clip was written incompletely", str(self._path))


def write_part(
    path: Path,
    rows: Iterable[Row],
    info: StoreInfo,
    quantization: Quantization | None = None,
    writers: Sequence[dict[str, str]] = (),
) -> None:
    """Write a part of the given rows at once, as `PartWriter` does."""
    with closing(PartWriter(path, info, quantization)) as part:
        for row in rows:
            part.add(row)
        part.finish(writers)


def array_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of an array's metadata, as canonical JSON."""
    return digest(load(path / "zarr.json"))


def max_shard_frames(info: StoreInfo) -> int:
    """Return the number of frames in a full shard."""
    return info.shard_bytes // info.frame_bytes // INNER_FRAMES * INNER_FRAMES


def shard_frames(total: int, info: StoreInfo) -> int:
    """Return S, the number of frames in each shard of a part with `total` frames."""
    return min(max_shard_frames(info), -(-total // INNER_FRAMES) * INNER_FRAMES)


def create_frames(group: zarr.Group, total: int, info: StoreInfo) -> zarr.Array[Any]:
    """Create the array of a part's frames without values: (total, D), or (K, total, D)."""
    layers = len(info.spec.layer_numbers)
    one = (1,) if layers else ()  # a chunk and a shard hold one layer
    return group.create_array(
        FRAMES,
        shape=(*((layers,) if layers else ()), total, info.frame_size),
        dtype=info.dtype,
        chunks=(*one, INNER_FRAMES, info.frame_size),
        shards=(*one, shard_frames(total, info), info.frame_size),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )


def create_column(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> zarr.Array[Any]:
    """Create one of a part's columns, without values."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=shape,
        compressors=[zarr.codecs.Crc32cCodec()],
        filters=None,
        config={"write_empty_chunks": True},
    )


def shard_folders(part: Path, info: StoreInfo) -> list[Path]:
    """Folders with the shard files of each layer; `frames/c` if the store has one layer."""
    chunks = part / FRAMES / "c"
    return [chunks / str(k) for k in range(len(info.spec.layer_numbers))] or [chunks]


def _checksums(rows: Sequence[_Written], info: StoreInfo) -> NDArray[np.uint32]:
    """(N,) checksums of frames, (N, K) in a store of K layers."""
    found = np.array([row.checksums for row in rows], np.uint32)  # (N, K)
    return found if info.spec.layer_numbers else found[:, 0]


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
