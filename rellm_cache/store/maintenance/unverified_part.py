"""A part's bytes, believed as far as their checksums go. In: a part's folder. Out: its rows.

Nothing here trusts metadata: sizes and checksums of the files say what is whole, and from that
follows what the metadata must be. So a part whose zarr.json is damaged still gives up its frames.
The reader (`part`, `column`) goes the other way, from the metadata, and so reads other codecs too.
"""

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

from rellm_cache.errors import RellmError
from rellm_cache.store.errors import (
    MISSING_FILE_ERRORS,
    damage_error,
    raise_if_unreadable,
    unreadable_error,
)
from rellm_cache.store.format import FRAMES, INNER_FRAMES, Frames, StoreInfo
from rellm_cache.store.part import frames_crc32c
from rellm_cache.store.part_writer import Row, shard_frames
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.download import fetch_array
from rellm_cache.store.shard_reader import ShardError, map_shard

# Little-endian type and shape of one item of each column.
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
QUANTIZATION_COLUMNS = frozenset(("scale", "mean"))  # of int8 stores, and of those alone


def column_names(info: StoreInfo, has_vad: bool) -> list[str]:
    """The columns that a part must have."""
    return [
        name
        for name in COLUMNS
        if (name != "vad" or has_vad)
        and (name not in QUANTIZATION_COLUMNS or info.dtype == np.int8)
    ]


def chunk_file(part: Path, name: str) -> Path:
    """The one file of a column."""
    return part.joinpath(name, "c", *("0" * (1 + len(COLUMNS[name][1]))))


def read_columns(part: Path, info: StoreInfo) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns whose bytes match their checksum, and what is wrong with the others.

    Raises:
        UnreadableError: a file that is there cannot be read now.
    """
    found: dict[str, np.ndarray] = {}
    problems = []
    for name in column_names(info, (part / "vad").exists()):
        dtype, item = COLUMNS[name]
        file = chunk_file(part, name)
        try:
            data = file.read_bytes()
        except MISSING_FILE_ERRORS as error:
            problems.append(f"column {name!r} cannot be read ({error})")
            continue
        except OSError as error:
            raise unreadable_error(file, error) from error
        payload, checksum = data[:-4], data[-4:]
        if google_crc32c.value(payload).to_bytes(4, "little") != checksum:
            problems.append(f"{file}: the bytes of column {name!r} do not match their checksum")
        elif len(payload) % (np.dtype(dtype).itemsize * int(np.prod(item))):
            problems.append(f"{file}: {len(payload)} bytes are no whole number of items")
        else:
            found[name] = np.frombuffer(payload, dtype).reshape(-1, *item)
    return found, problems


def column_conflicts(columns: dict[str, np.ndarray], info: StoreInfo) -> list[str]:
    """Why whole columns cannot be those of one part; empty where they can."""
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
        f"{name} is of {found} utterances, offsets of {count}"
        for name, found in lengths.items()
        if found != count
    ]
    problems += [
        f"{name} is of {len(columns[name])} channels, frames of {info.frame_size}"
        for name in sorted(QUANTIZATION_COLUMNS & columns.keys())
        if len(columns[name]) != info.frame_size
    ]
    if problems:
        return problems
    if columns["id_offsets"][-1] != len(columns["ids"]):
        return [f"ids has {len(columns['ids'])} bytes, id_offsets {columns['id_offsets'][-1]}"]
    try:
        ids = split_ids(columns)
    except UnicodeDecodeError as error:
        return [f"an id is not UTF-8 ({error})"]
    return ["an id occurs twice"] if len(set(ids)) < len(ids) else []


def _ascends(offsets: np.ndarray) -> bool:
    return len(offsets) > 1 and offsets[0] == 0 and bool((np.diff(offsets) > 0).all())


def split_ids(columns: dict[str, np.ndarray]) -> list[str]:
    """N ids; `UnicodeDecodeError` where one is not UTF-8."""
    text, ends = columns["ids"].tobytes(), columns["id_offsets"].tolist()
    return [text[a:b].decode() for a, b in itertools.pairwise(ends)]


def quantization_from(columns: dict[str, np.ndarray]) -> Quantization | None:
    """What int8 values stand for; None where frames are float16."""
    return Quantization(columns["scale"], columns["mean"]) if "scale" in columns else None


def guess_ids(part: Path) -> list[str]:
    """What can be read of the ids of a part with damaged columns; for a message alone."""
    try:
        text, ends = (
            chunk_file(part, "ids").read_bytes()[:-4],
            np.frombuffer(chunk_file(part, "id_offsets").read_bytes()[:-4], "<i8").tolist(),
        )
    except (OSError, ValueError):
        return []
    if not all(0 <= a < b <= len(text) for a, b in itertools.pairwise(ends)):
        return []
    return [text[a:b].decode(errors="replace") for a, b in itertools.pairwise(ends)]


class UnverifiedPart:
    """A part whose columns are whole and agree; its frames may be broken in places.

    Attributes:
        path: its folder.
        columns: every column.
        ids: N utterance ids.
        quantization: what int8 values stand for; None where frames are float16.
        problems: what is wrong with the files of its frames.
    """

    def __init__(self, path: Path, info: StoreInfo, columns: dict[str, np.ndarray]) -> None:
        self.path = path
        self.columns = columns
        self.ids = split_ids(columns)
        self.quantization = quantization_from(columns)
        self.problems: list[str] = []
        self._info = info
        self._total = int(columns["offsets"][-1])
        self._size = shard_frames(self._total, info)
        self._shards: list[np.ndarray | None] = []
        self._held: np.ndarray | None = None  # keeps chunks of other codecs, in a copy
        if self.foreign is None:
            self._open_shards()

    @cached_property
    def foreign(self) -> zarr.Array[Any] | None:
        """The frames where another program stored them with other codecs; None in our layout."""
        try:
            self._map(0)
        except ShardError:
            pass
        else:
            return None
        try:
            self._held = fetch_array(self.path / FRAMES)
            array = zarr.open_array(str(self.path / FRAMES), mode="r")
        except RellmError:
            raise
        except Exception as error:  # zarr raises anything at all at metadata with a flipped bit
            raise_if_unreadable(error, self.path / FRAMES)
            return None  # what is wrong is said where its shards are opened
        size = self._info.frame_size
        own = array.shards == (self._size, size) and array.compressors == ()
        fits = array.shape == (self._total, size) and array.dtype == self._info.dtype
        return array if fits and not own else None

    def release(self) -> None:
        """Let go of its frames, which cannot be read any more; its columns stay."""
        self._shards = [None] * len(self._shards)

    @property
    def shard_files(self) -> list[Path]:
        """The files that hold its frames."""
        if self.foreign is not None:
            chunks = self.path / FRAMES / "c"
            return [file for file in chunks.rglob("*") if file.is_file()]
        return [self._shard_file(number) for number in range(len(self._shards))]

    def _shard_file(self, number: int) -> Path:
        return self.path / FRAMES / "c" / str(number) / "0"

    def _open_shards(self) -> None:
        for number in range(-(-self._total // self._size)):
            try:
                shard = self._map(number)
            except ShardError as error:
                self.problems.append(str(error))
                self._shards.append(None)
                continue
            self._shards.append(shard)
            if shard[self._total - number * self._size :].view(np.uint8).any():
                self.problems.append(
                    f"{self._shard_file(number)}: frames beyond the last are not zeros"
                )

    def _map(self, number: int) -> np.ndarray:
        """(frames, D) of one shard file; where its chunks lie follows from the columns alone."""
        held = min(self._size, self._total - number * self._size)
        chunks = map_shard(
            self._shard_file(number),
            self._size // INNER_FRAMES,
            -(-held // INNER_FRAMES),
            INNER_FRAMES * self._info.frame_bytes,
        )
        return chunks.view(self._info.dtype).reshape(-1, self._info.frame_size)

    def frames(self, row: int) -> Frames:
        """(L, D) frames of one utterance.

        Raises:
            StoreError: they are not what was written.
            UnreadableError: they cannot be read now.
        """
        start, stop = self.columns["offsets"][row : row + 2].tolist()
        frames = self._stored(start, stop)
        if frames is None or frames_crc32c(frames) != int(self.columns["frames_crc32c"][row]):
            raise damage_error(
                self.path, f"frames of {self.ids[row]!r} do not match their checksum"
            )
        return frames

    def _stored(self, start: int, stop: int) -> Frames | None:
        if self.foreign is not None:
            try:
                return np.asarray(self.foreign[start:stop])
            except Exception as error:  # a codec raises anything at all at damaged bytes
                raise_if_unreadable(error, self.path / FRAMES)
                return None  # the caller says that these frames are broken
        pieces = []
        while start < stop:
            number = start // self._size
            shard, end = self._shards[number], min(stop, (number + 1) * self._size)
            if shard is None:
                return None
            pieces.append(shard[start - number * self._size : end - number * self._size])
            start = end
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def row(self, row: int) -> Row:
        """One utterance, to be written again; `StoreError` where its frames are broken."""
        vad = self.columns.get("vad")
        return Row(
            self.ids[row],
            self.columns["audio_sha256"][row],
            self.frames(row),
            None if vad is None else vad[row],
        )
