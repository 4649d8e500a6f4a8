"""Reader of one committed part: frames and columns by row.

The frames of all utterances lie end to end in one array, one layer after the other. Uncompressed
ones are read as slices of memory-mapped shards and compared with their checksum when first read.
Frames with other codecs are read through zarr and compared at every read, because zarr reads
missing chunks as zeros.
"""

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray

from rellm_cache.store.errors import damage_error, raise_if_unreadable
from rellm_cache.store.format import FRAMES, Frames, StoreInfo
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.download import fetch_array, is_frames_file, part_origin_url
from rellm_cache.store.shard_reader import LITTLE_ENDIAN, ONE_BYTE, MappedShards, ShardError
from rellm_cache.utils.json_files import load
from rellm_cache.utils.regular_files import read_regular

CRC_BYTES = 4


def frames_crc32c(frames: np.ndarray) -> int:
    """Return the CRC-32C of an utterance's frames as stored: little-endian values, in order."""
    return int(google_crc32c.value(np.ascontiguousarray(frames)))


def split_ids(text: np.ndarray, ends: np.ndarray) -> list[str]:
    """Split the column `ids` at the offsets in `id_offsets`; `UnicodeDecodeError` if not UTF-8."""
    data = text.tobytes()
    return [data[a:b].decode() for a, b in itertools.pairwise(ends.tolist())]


class Part:
    """A committed part of the store with `info`; columns and shards are loaded when first used."""

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path = path
        self._info = info
        self._held: NDArray[np.uint8] | None = None  # protects chunks of other codecs from eviction

    def _column(self, name: str) -> np.ndarray:
        try:
            return read_column(self.path / name)
        except Exception as error:  # zarr raises any error at damaged metadata
            raise_if_unreadable(error, self.path)
            raise damage_error(self.path, f"column {name!r} cannot be read ({error})") from error

    def _row_column(self, name: str) -> np.ndarray:
        """Read a column with one item for each utterance."""
        column = self._column(name)
        if len(column) != len(self.offsets) - 1:
            raise damage_error(
                self.path,
                f"column {name!r} has {len(column)} rows for {len(self.offsets) - 1} utterances",
            )
        return column

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(N+1,) first frame of each utterance, then the end of the last."""
        return self._column("offsets")

    def id_columns(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the ids end to end and their (N+1,) offsets, for the store's index."""
        text, ends = self._column("ids"), self._column("id_offsets")
        if ends[-1] != len(text) or len(ends) != len(self.offsets):
            raise damage_error(self.path, "its columns do not belong together")
        return text, ends

    @cached_property
    def ids(self) -> list[str]:
        """N utterance ids, in the order of their frames."""
        return split_ids(*self.id_columns())

    @cached_property
    def audio_sha256(self) -> NDArray[np.uint8]:
        """(N, 32) digests of the source audio."""
        return self._row_column("audio_sha256")

    @cached_property
    def frames_crc32c(self) -> NDArray[np.uint32]:
        """(N,) checksum of each utterance's frames; of K layers (N, K)."""
        return self._row_column("frames_crc32c")

    @cached_property
    def vad(self) -> np.ndarray | None:
        """(N, 3) float32 arousal, dominance, valence of the encoder's head; None without one."""
        return self._row_column("vad") if (self.path / "vad").exists() else None

    @cached_property
    def quantization(self) -> Quantization | None:
        """Scale and mean of int8 frames, those of each layer; None for float frames."""
        if self._info.dtype != np.int8:
            return None
        return Quantization(self._column("scale"), self._column("mean"))

    def length(self, row: int) -> int:
        """Return L, the number of frames of one utterance."""
        return int(self._bounds[row + 1] - self._bounds[row])

    def frames(self, row: int, layer: int = 0) -> Frames:
        """Return (L, D) frames of one utterance, a read-only view of the mapped file if possible.

        `layer` counts the layers of the store from 0; other layers are not read.

        Raises `StoreError` if they do not match their checksum, which is compared at the first
        read. Raises `UnreadableError` if the file exists but cannot be read.
        """
        start, stop = self._bounds[row], self._bounds[row + 1]
        if self._shards is None:
            return self._frames_through_zarr(row, start, stop, layer)
        try:
            frames = self._shards[layer].read(start, stop)
        except ShardError as error:
            raise damage_error(self.path, str(error)) from error
        if not self._checked[row * self._info.layer_count + layer]:
            # Copying releases the GIL, the checksum does not. A checksum of the memory map itself
            # would block all threads while the disk is read.
            self.check(row, frames.copy(), layer)
        return frames

    def check(self, row: int, frames: Frames, layer: int = 0) -> None:
        """Compare (L, D) frames of a clip with their checksum; `StoreError` if they differ."""
        if frames_crc32c(frames) != int(self._checksums[row, layer]):
            raise damage_error(
                self.path,
                f"{name_frames(self.ids[row], self._info, layer)} do not match their checksum",
            )
        self._checked[row * self._info.layer_count + layer] = True

    @property
    def nbytes(self) -> int:
        """Total size of all files; in a mirror, frames not downloaded yet are included.

        A mirror counts frames with other codecs by their uncompressed size.
        """
        files = [path for path in self.path.rglob("*") if path.is_file()]
        if part_origin_url(self.path) is None:
            return sum(path.stat().st_size for path in files)
        small = (
            path for path in files if not is_frames_file(path.relative_to(self.path).as_posix())
        )
        frames = int(self.offsets[-1]) * self._info.frame_bytes * self._info.layer_count
        if self._shards is not None:
            frames = sum(layer.nbytes for layer in self._shards)
        return frames + sum(path.stat().st_size for path in small)

    def is_cached(self, row: int, layer: int = 0) -> bool:
        """Return whether the first value of an utterance's frames is in the page cache."""
        return self._shards is None or self._shards[layer].is_cached(self._bounds[row])

    def read_ahead(self, row: int, layer: int = 0) -> None:
        """Ask the system to load the frames of one utterance in the background."""
        if self._shards is not None:
            self._shards[layer].read_ahead(self._bounds[row], self._bounds[row + 1])

    def close(self) -> None:
        """Drop the memory maps; the next read maps and checks again."""
        self._held = None
        # Deleting the cached values must not compute them.
        for name in ("_shards", "_checked"):
            self.__dict__.pop(name, None)

    @cached_property
    def _bounds(self) -> memoryview:
        """`offsets` as a memoryview: reading one item is faster than from numpy."""
        return np.ascontiguousarray(self.offsets, np.int64).data

    @cached_property
    def _checksums(self) -> NDArray[np.uint32]:
        """(N, K) checksums of each utterance's frames, for each layer."""
        column = self.frames_crc32c
        if column.size != len(column) * self._info.layer_count:
            raise damage_error(
                self.path, f"column 'frames_crc32c' is not for {self._info.layer_count} layers"
            )
        return column.reshape(len(column), -1)

    @cached_property
    def _checked(self) -> bytearray:
        """For each row and layer, whether its checksum was compared."""
        return bytearray((len(self.offsets) - 1) * self._info.layer_count)

    @cached_property
    def _shards(self) -> list[MappedShards] | None:
        """The shard files of each layer; None if zarr must decode the frames."""
        try:
            return MappedShards.open(self.path, int(self.offsets[-1]), self._info)
        except ShardError as error:
            raise damage_error(self.path, str(error)) from error

    def _frames_through_zarr(self, row: int, start: int, stop: int, layer: int) -> Frames:
        if self._held is None:
            self._held = fetch_array(self.path / FRAMES)
        try:
            array = zarr.open_array(str(self.path / FRAMES), mode="r")
            frames = np.asarray(
                array[layer, start:stop] if self._info.spec.layer_numbers else array[start:stop]
            )
        except Exception as error:  # zarr raises any error at damaged metadata
            raise_if_unreadable(error, self.path)
            raise damage_error(self.path, f"frames cannot be read ({error})") from error
        self.check(row, frames, layer)  # every time: zarr reads a missing chunk as zeros
        return frames


def name_frames(utterance_id: str, info: StoreInfo, layer: int) -> str:
    """Name the frames of an utterance in a message, with the layer if the store has several."""
    layers = info.spec.layer_numbers
    of_layer = f" of layer {layers[layer]}" if layers else ""
    return f"frames{of_layer} of {utterance_id!r}"


def read_column(path: Path) -> np.ndarray:
    """Read the whole array at `path` and compare its checksum.

    Our writer stores a column as one file: its bytes and their CRC-32C. It is read directly, for
    speed: a store may have hundreds of parts. Other layouts are read through zarr. Raises
    `OSError`, `ValueError` or `KeyError` if it is missing, truncated, altered or not a Zarr array;
    for other layouts, any error of zarr.
    """
    meta = load(path / "zarr.json")
    shape = tuple(meta["shape"])
    only_chunk = path.joinpath("c", *("0" * len(shape)))
    if not only_chunk.is_file():  # zarr would read zeros
        raise FileNotFoundError(f"{only_chunk} is missing")
    if not _is_plain(meta):
        return np.asarray(zarr.open_array(str(path), mode="r")[:])
    data = read_regular(only_chunk)
    dtype = np.dtype(meta["data_type"]).newbyteorder("<")
    expected = int(np.prod(shape)) * dtype.itemsize + CRC_BYTES
    if len(data) != expected:
        raise ValueError(f"{only_chunk} has {len(data)} bytes, expected {expected}")
    body = memoryview(data)[:-CRC_BYTES]
    if google_crc32c.value(bytes(body)) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise ValueError(f"{only_chunk}: its bytes do not match their checksum")
    return np.frombuffer(body, dtype).reshape(shape)


def _is_plain(meta: dict[str, Any]) -> bool:
    """Return whether the array is one uncompressed chunk with a checksum, our layout."""
    return (
        meta["chunk_grid"]["configuration"]["chunk_shape"] == meta["shape"]
        and meta["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and len(meta["codecs"]) == 2
        and meta["codecs"][0] in (ONE_BYTE, LITTLE_ENDIAN)
        and meta["codecs"][1] == {"name": "crc32c"}
    )
