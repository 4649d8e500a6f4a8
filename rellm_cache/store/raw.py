"""A part's bytes, believed as far as their checksums go. In: a part's folder. Out: its rows.

Nothing here trusts metadata: sizes and checksums of the files say what is whole, and from that
follows what the metadata must be. So a part whose zarr.json is damaged still gives up its frames.
"""

import itertools
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

from rellm_cache.store.layout import GONE, INNER_FRAMES, StoreInfo, damaged, unreadable
from rellm_cache.store.part import FRAMES, Frames, Row, frames_crc32c, shard_frames

# Little-endian type and shape of one item of each column.
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "offsets": ("<i8", ()),
    "ids": ("|u1", ()),
    "id_offsets": ("<i8", ()),
    "audio_sha256": ("|u1", (32,)),
    "frames_crc32c": ("<u4", ()),
    "vad": ("<f4", (3,)),
}
OPTIONAL = frozenset(("vad",))
_ABSENT = np.uint64(2**64 - 1)


def chunk_file(part: Path, name: str) -> Path:
    """The one file of a column."""
    return part.joinpath(name, "c", *("0" * (1 + len(COLUMNS[name][1]))))


def read_columns(part: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns whose bytes match their checksum, and what is wrong with the others.

    Raises:
        StoreError: a file that is there cannot be read.
    """
    found: dict[str, np.ndarray] = {}
    problems = []
    for name, (dtype, item) in COLUMNS.items():
        file = chunk_file(part, name)
        if name in OPTIONAL and not (part / name).exists():
            continue
        try:
            data = file.read_bytes()
        except GONE as error:
            problems.append(f"column {name!r} cannot be read ({error})")
            continue
        except OSError as error:
            raise unreadable(file, error) from error
        payload, checksum = data[:-4], data[-4:]
        if google_crc32c.value(payload).to_bytes(4, "little") != checksum:
            problems.append(f"{file}: the bytes of column {name!r} do not match their checksum")
        elif len(payload) % (np.dtype(dtype).itemsize * int(np.prod(item))):
            problems.append(f"{file}: {len(payload)} bytes are no whole number of items")
        else:
            found[name] = np.frombuffer(payload, dtype).reshape(-1, *item)
    return found, problems


def disagreements(columns: dict[str, np.ndarray]) -> list[str]:
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


def likely_ids(part: Path) -> list[str]:
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


class _BrokenError(Exception):
    """A shard file is not what was written."""


class RawPart:
    """A part whose columns are whole and agree; its frames may be broken in places.

    Attributes:
        path: its folder.
        columns: every column.
        ids: N utterance ids.
        problems: what is wrong with the files of its frames.
    """

    def __init__(self, path: Path, info: StoreInfo, columns: dict[str, np.ndarray]) -> None:
        self.path = path
        self.columns = columns
        self.ids = split_ids(columns)
        self.problems: list[str] = []
        self._frame_size = info.frame_size
        self._total = int(columns["offsets"][-1])
        self._size = shard_frames(self._total, info.frame_size)
        self._shards: list[np.ndarray | None] = []
        if self.foreign is None:
            self._open_shards()

    @cached_property
    def foreign(self) -> zarr.Array[Any] | None:
        """The frames where another program stored them with other codecs; None in our layout."""
        try:
            self._map(0)
        except _BrokenError:
            pass
        else:
            return None
        try:
            array = zarr.open_array(str(self.path / FRAMES), mode="r")
        except Exception:  # zarr raises anything at all at metadata with a flipped bit
            return None
        own = array.shards == (self._size, self._frame_size) and array.compressors == ()
        fits = array.shape == (self._total, self._frame_size) and array.dtype == np.float16
        return array if fits and not own else None

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
            except _BrokenError as error:
                self.problems.append(str(error))
                self._shards.append(None)
                continue
            self._shards.append(shard)
            if shard[self._total - number * self._size :].view(np.uint8).any():
                self.problems.append(
                    f"{self._shard_file(number)}: frames beyond the last are not zeros"
                )

    def _map(self, number: int) -> np.ndarray:
        """(frames, D) of one shard file, after checking its size, its index and its padding."""
        file = self._shard_file(number)
        held = min(self._size, self._total - number * self._size)
        chunks, present = self._size // INNER_FRAMES, -(-held // INNER_FRAMES)
        chunk_bytes = INNER_FRAMES * self._frame_size * 2
        end = present * chunk_bytes
        try:
            data: np.ndarray = np.memmap(file, np.uint8, "r")
        except (*GONE, ValueError) as error:
            raise _BrokenError(f"{file} cannot be read ({error})") from error
        except OSError as error:
            raise unreadable(file, error) from error
        if len(data) != end + 16 * chunks + 4:
            raise _BrokenError(f"{file} has {len(data)} bytes, expected {end + 16 * chunks + 4}")
        if google_crc32c.value(data[end:-4].tobytes()) != int(data[-4:].view("<u4")[0]):
            raise _BrokenError(f"{file}: the checksum of its index is wrong")
        index = data[end:-4].view("<u8").reshape(chunks, 2)  # offset, length
        wanted = np.full((chunks, 2), _ABSENT)
        wanted[:present, 0] = np.arange(present, dtype=np.uint64) * np.uint64(chunk_bytes)
        wanted[:present, 1] = chunk_bytes
        if not np.array_equal(index, wanted):
            raise _BrokenError(f"{file}: its index misses chunks or holds them out of order")
        return data[:end].view("<f2").reshape(-1, self._frame_size)

    def frames(self, row: int) -> Frames:
        """(L, D) frames of one utterance; `StoreError` where they are not what was written."""
        start, stop = self.columns["offsets"][row : row + 2].tolist()
        frames = self._stored(start, stop)
        if frames is None or frames_crc32c(frames) != int(self.columns["frames_crc32c"][row]):
            raise damaged(self.path, f"frames of {self.ids[row]!r} do not match their checksum")
        return frames

    def _stored(self, start: int, stop: int) -> Frames | None:
        if self.foreign is not None:
            try:
                return np.asarray(self.foreign[start:stop])
            except Exception:  # as above
                return None
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
