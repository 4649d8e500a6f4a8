"""Part reader that does not use the metadata, for verify and repair.

File sizes and checksums show what is intact, so a damaged zarr.json loses no frames.
The normal reader, `part`, starts from the metadata instead.
"""

import itertools
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray

from rellm_cache.errors import RellmError, StoreError
from rellm_cache.store.errors import (
    MISSING_FILE_ERRORS,
    damage_error,
    raise_if_unreadable,
    unreadable_error,
)
from rellm_cache.store.format import FRAMES, Frames, StoreInfo
from rellm_cache.store.part import frames_crc32c, name_frames, split_ids
from rellm_cache.store.part_writer import Row, shard_folders, shard_frames
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.download import fetch_array
from rellm_cache.store.shard_reader import MappedShards, ShardError
from rellm_cache.utils.regular_files import read_regular

# Data type and shape of one item of each column; `column_item` gives it in a store of K layers.
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "offsets": ("<i8", ()),
    "ids": ("|u1", ()),
    "id_offsets": ("<i8", ()),
    "audio_sha256": ("|u1", (32,)),
    "frames_crc32c": ("<u4", ()),
    "vad": ("<f4", (3,)),
    "scale": ("<f4", ()),
    "mean": ("<f4", ()),
}
QUANTIZATION_COLUMNS = frozenset(("scale", "mean"))  # int8 stores only


def column_names(info: StoreInfo, has_vad: bool) -> list[str]:
    """Return the columns that a part must have."""
    return [
        name
        for name in COLUMNS
        if (name != "vad" or has_vad)
        and (name not in QUANTIZATION_COLUMNS or info.dtype == np.int8)
    ]


def column_item(name: str, info: StoreInfo) -> tuple[int, ...]:
    """Return the shape of one item of a column: of an utterance, or of a layer's scale and mean."""
    layers = info.spec.layer_numbers
    if layers and name == "frames_crc32c":
        return (len(layers),)
    return (info.frame_size,) if layers and name in QUANTIZATION_COLUMNS else COLUMNS[name][1]


def chunk_file(part: Path, name: str, item: tuple[int, ...] = ()) -> Path:
    """Return the only file of a column, with items of this shape."""
    return part.joinpath(name, "c", *("0" * (1 + len(item))))


def read_columns(part: Path, info: StoreInfo) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the columns that match their checksum, and list the problems of the others.

    Raises `UnreadableError` if a file exists but cannot be read.
    """
    found: dict[str, np.ndarray] = {}
    problems = []
    for name in column_names(info, (part / "vad").exists()):
        dtype, item = COLUMNS[name][0], column_item(name, info)
        file = chunk_file(part, name, item)
        try:
            data = read_regular(file)
        except MISSING_FILE_ERRORS as error:
            problems.append(f"column {name!r} cannot be read ({error})")
            continue
        except OSError as error:
            raise unreadable_error(file, error) from error
        payload, checksum = data[:-4], data[-4:]
        if google_crc32c.value(payload).to_bytes(4, "little") != checksum:
            problems.append(f"{file}: the bytes of column {name!r} do not match their checksum")
        elif len(payload) % (np.dtype(dtype).itemsize * int(np.prod(item))):
            problems.append(f"{file}: {len(payload)} bytes are not a whole number of items")
        else:
            found[name] = np.frombuffer(payload, dtype).reshape(-1, *item)
    return found, problems


def column_conflicts(columns: dict[str, np.ndarray], info: StoreInfo) -> list[str]:
    """List contradictions between intact columns; empty if they are consistent."""
    problems = [
        f"{name} does not ascend from 0 to its end"
        for name in ("offsets", "id_offsets")
        if not _ascends(columns[name])
    ]
    count = len(columns["offsets"]) - 1
    lengths = {"id_offsets": len(columns["id_offsets"]) - 1} | {
        name: len(columns[name])
        for name in ("audio_sha256", "frames_crc32c", "vad")
        if name in columns
    }
    problems += [
        f"{name} has {found} utterances, offsets has {count}"
        for name, found in lengths.items()
        if found != count
    ]
    problems += [
        f"{name} has {columns[name].size} channels, frames have {math.prod(info.frame_shape)}"
        for name in sorted(QUANTIZATION_COLUMNS & columns.keys())
        if columns[name].shape != info.frame_shape
    ]
    if problems:
        return problems
    if columns["id_offsets"][-1] != len(columns["ids"]):
        return [
            f"ids has {len(columns['ids'])} bytes, id_offsets ends at {columns['id_offsets'][-1]}"
        ]
    try:
        ids = split_ids(columns["ids"], columns["id_offsets"])
    except UnicodeDecodeError as error:
        return [f"an id is not UTF-8 ({error})"]
    return ["an id occurs twice"] if len(set(ids)) < len(ids) else []


def _ascends(offsets: np.ndarray) -> bool:
    return len(offsets) > 1 and offsets[0] == 0 and bool((np.diff(offsets) > 0).all())


def quantization_from(columns: dict[str, np.ndarray]) -> Quantization | None:
    """Return scale and mean of int8 frames; None for float frames."""
    return Quantization(columns["scale"], columns["mean"]) if "scale" in columns else None


def guess_ids(part: Path) -> list[str]:
    """Read the ids of a part with damaged columns as far as possible, for messages only."""
    try:
        text = read_regular(chunk_file(part, "ids"))[:-4]
        ends = np.frombuffer(read_regular(chunk_file(part, "id_offsets"))[:-4], "<i8").tolist()
    except (OSError, ValueError):
        return []
    if not all(0 <= a < b <= len(text) for a, b in itertools.pairwise(ends)):
        return []
    return [text[a:b].decode(errors="replace") for a, b in itertools.pairwise(ends)]


class UnverifiedPart:
    """A part with intact, consistent columns; some of its frames may be damaged."""

    def __init__(self, path: Path, info: StoreInfo, columns: dict[str, np.ndarray]) -> None:
        self.path = path
        self.columns = columns
        self.ids = split_ids(columns["ids"], columns["id_offsets"])
        self.quantization = quantization_from(columns)
        self.problems: list[str] = []  # damage in the files with its frames
        self._info = info
        self._total = int(columns["offsets"][-1])
        self._size = shard_frames(self._total, info)
        self._layers = [
            MappedShards(folder, self._size, self._total, info)
            for folder in shard_folders(path, info)
        ]
        self._held: np.ndarray | None = None  # protects chunks of other codecs from eviction
        if self.zarr_frames is None:
            self._check_shards()

    @cached_property
    def zarr_frames(self) -> zarr.Array[Any] | None:
        """The frames as a zarr array if another program stored them with other codecs."""
        try:
            self._layers[0].map(0)
        except ShardError:
            pass
        else:
            return None
        try:
            self._held = fetch_array(self.path / FRAMES)
            array = zarr.open_array(str(self.path / FRAMES), mode="r")
        except RellmError:
            raise
        except Exception as error:  # zarr raises any error at damaged metadata
            raise_if_unreadable(error, self.path / FRAMES)
            return None  # `_check_shards` reports the damage
        size, layers = self._info.frame_size, self._info.spec.layer_numbers
        one = (1,) if layers else ()
        own = array.shards == (*one, self._size, size) and array.compressors == ()
        wanted = (*((len(layers),) if layers else ()), self._total, size)
        fits = array.shape == wanted and array.dtype == self._info.dtype
        return array if fits and not own else None

    def release(self) -> None:
        """Drop the memory maps of frames before these are deleted; the columns stay."""
        for shards in self._layers:
            shards.close()

    @property
    def shard_files(self) -> list[Path]:
        """The files that hold its frames."""
        if self.zarr_frames is not None:
            chunks = self.path / FRAMES / "c"
            return [file for file in chunks.rglob("*") if file.is_file()]
        return [Path(layer.file(k)) for layer in self._layers for k in self._shard_numbers]

    @property
    def _shard_numbers(self) -> range:
        return range(-(-self._total // self._size))

    def _check_shards(self) -> None:
        for layer, number in itertools.product(self._layers, self._shard_numbers):
            try:
                shard = layer.map(number)
            except ShardError as error:
                self.problems.append(str(error))
                continue
            if shard[self._total - number * self._size :].view(np.uint8).any():
                file = layer.file(number)
                self.problems.append(f"{file}: frames beyond the last are not zeros")

    def frames(self, row: int) -> Frames:
        """Return (L, D) frames of one utterance, (L, K, D) of K layers.

        Raises `StoreError` if they do not match their checksum. Raises `UnreadableError` if they
        exist but cannot be read.
        """
        layers = [self._layer_frames(row, layer) for layer in range(len(self._layers))]
        if not self._info.spec.layer_numbers:
            return layers[0]
        stacked: NDArray[Any] = np.stack(layers)
        return stacked.swapaxes(0, 1)  # (K, L, D) -> (L, K, D)

    def damaged_layers(self, row: int) -> list[int]:
        """Return the places of the layers whose frames of one utterance are damaged."""
        damaged = []
        for layer in range(len(self._layers)):
            try:
                self._layer_frames(row, layer)
            except StoreError:
                damaged.append(layer)
        return damaged

    def _layer_frames(self, row: int, layer: int) -> Frames:
        start, stop = self.columns["offsets"][row : row + 2].tolist()
        frames = self._stored(start, stop, layer)
        checksum = self.columns["frames_crc32c"].reshape(len(self.ids), -1)[row, layer]
        if frames is None or frames_crc32c(frames) != int(checksum):
            named = name_frames(self.ids[row], self._info, layer)
            raise damage_error(self.path, f"{named} do not match their checksum")
        return frames

    def _stored(self, start: int, stop: int, layer: int) -> Frames | None:
        """Return a range of a layer's frames; None if they are damaged."""
        try:
            if self.zarr_frames is None:
                return self._layers[layer].read(start, stop)
            if self._info.spec.layer_numbers:
                return np.asarray(self.zarr_frames[layer, start:stop])
            return np.asarray(self.zarr_frames[start:stop])
        except ShardError:
            return None
        except RellmError:
            raise
        except Exception as error:  # a codec raises any error at damaged bytes
            raise_if_unreadable(error, self.path / FRAMES)
            return None

    def row(self, row: int) -> Row:
        """Return one utterance, to be written again; `StoreError` if its frames are damaged."""
        vad = self.columns.get("vad")
        return Row(
            self.ids[row],
            self.columns["audio_sha256"][row],
            self.frames(row),
            None if vad is None else vad[row],
        )
