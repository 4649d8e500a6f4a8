"""HDF5 export and import of a store, equal bit for bit.

Each part is a group with the same arrays and the attribute `rellm` as JSON text.
docs/cache-format.md specifies the file.
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rellm_cache.errors import RellmError, StoreError
from rellm_cache.store.commit import add_part
from rellm_cache.store.errors import unreadable_error
from rellm_cache.store.format import FRAMES, PART_NAME, StoreInfo, list_parts, parse_info, read_info
from rellm_cache.store.maintenance.copy import (
    CopyReport,
    add_missing_parts,
    require_equal_quantization,
)
from rellm_cache.store.maintenance.hdf5_probe import require_readable
from rellm_cache.store.maintenance.metadata import read_group
from rellm_cache.store.maintenance.unverified_part import (
    COLUMNS,
    UnverifiedPart,
    column_conflicts,
    column_item,
    column_names,
    quantization_from,
)
from rellm_cache.store.maintenance.verify import check_part, require_intact
from rellm_cache.store.part import frames_crc32c, split_ids
from rellm_cache.store.part_writer import Row, write_part
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.writer import create_store
from rellm_cache.utils.atomic_files import write_file
from rellm_cache.utils.console import Tick
from rellm_cache.utils.json_files import decode

ATTRIBUTE = "rellm"


def export_store(path: Path, file: Path, tick: Tick) -> int:
    """Write a store to one HDF5 file, which appears when complete; return its number of rows.

    `tick` counts parts. Raises `StoreError` if a part is damaged or the file exists, and
    `RellmError` if it cannot be written.
    """
    if file.exists():
        raise StoreError(f"{file}: exists already; name another file or remove it")
    info = read_info(path)
    rows = 0

    def write(temporary: Path) -> None:
        nonlocal rows
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        with _reserved(temporary, size) as file, h5py.File(file, "w") as out:
            out.attrs[ATTRIBUTE] = json.dumps(info.to_attributes()[ATTRIBUTE], ensure_ascii=False)
            for part in list_parts(path):
                contents = require_intact(check_part(part, info))
                _export_part(contents, out.create_group(part.name), info)
                file.require_written()
                rows += len(contents.ids)
                tick(1, path.name)

    write_file(file, write)
    return rows


@contextmanager
def _reserved(path: Path, size: int) -> Iterator["_ExportFile"]:
    """Open a new file with room for `size` bytes on the disk; `OSError` if there is too little."""
    with path.open("w+b", buffering=0) as raw:
        os.posix_fallocate(raw.fileno(), 0, size)
        file = _ExportFile(raw)
        yield file
        file.truncate(file.seek(0, os.SEEK_END))
        file.require_written()


class _ExportFile(io.RawIOBase):
    """File that keeps the first error of writing for later.

    HDF5 ends the process with a segmentation fault if it cannot write while it closes a file.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._size = 0  # without the reserved space
        self._error: OSError | None = None

    def require_written(self) -> None:
        """Raise the first error of writing, if there was one."""
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write all bytes; after an error nothing more."""
        view = memoryview(data).cast("B")
        self._size = max(self._size, self._raw.tell() + len(view))
        self._attempt(lambda: _write_all(self._raw, view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        self._size = self._raw.tell() if size is None else size
        self._attempt(lambda: self._raw.truncate(self._size))
        return self._size

    def readinto(self, buffer: Any) -> int:
        """Read at the current position."""
        return self._raw.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the current position."""
        if whence == os.SEEK_END:
            return self._raw.seek(self._size + offset)
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the current position."""
        return self._raw.tell()

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def _attempt(self, write: Callable[[], object]) -> None:
        if self._error is None:
            try:
                write()
            except OSError as error:
                self._error = error


def _write_all(raw: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[raw.write(data) :]


def _export_part(part: UnverifiedPart, group: Any, info: StoreInfo) -> None:
    group.attrs[ATTRIBUTE] = json.dumps(read_group(part.path), ensure_ascii=False)
    total = int(part.columns["offsets"][-1])
    layers = len(info.spec.layer_numbers)
    shape = (*((layers,) if layers else ()), total, info.frame_size)
    frames = group.create_dataset(FRAMES, shape, info.dtype)
    for row in range(len(part.ids)):
        start, stop = part.columns["offsets"][row : row + 2].tolist()
        if layers:
            frames[:, start:stop] = part.frames(row).swapaxes(0, 1)  # (L, K, D) -> (K, L, D)
        else:
            frames[start:stop] = part.frames(row)
    for name, column in part.columns.items():
        group.create_dataset(name, data=column)


def import_store(file: Path, cache: Path, tick: Tick) -> CopyReport:
    """Add the parts of an exported file that `cache` lacks; each is checked before it appears.

    A killed call continues when repeated. `tick` counts parts. Raises `StoreError` if the file is
    not an exported store, is damaged, or the cache cannot be written. Raises `UnreadableError` if
    permission to read the file is missing.
    """
    require_readable(file)
    try:
        with h5py.File(file, "r") as source:
            info = parse_info(decode(source.attrs[ATTRIBUTE]), file)
            names = sorted(name for name in source if PART_NAME.fullmatch(name))
            sync_mirror(cache)
            store = create_store(cache, info)
            return add_missing_parts(
                store, names, lambda name: _import_part(source[name], store / name, info), tick
            )
    except PermissionError as error:
        raise unreadable_error(file, error) from error
    except (RellmError, MemoryError):
        raise
    except Exception as error:  # h5py raises errors of many types at damaged bytes
        raise StoreError(
            f"{file}: not a store that `rellm cache export` wrote, or damaged ({error}); export "
            "it again"
        ) from error


def count_parts(file: Path) -> int:
    """Count the parts in an exported file; `StoreError` if it cannot be read."""
    require_readable(file)
    with h5py.File(file, "r") as source:
        return sum(1 for name in source if PART_NAME.fullmatch(name))


def _column(group: Any, name: str, info: StoreInfo) -> np.ndarray:
    """Read a column; `ValueError` if it has another type, another shape, NaN or infinite values."""
    dtype, item, held = COLUMNS[name][0], column_item(name, info), group[name]
    if held.dtype.newbyteorder("<") != np.dtype(dtype) or held.shape[1:] != item or not held.ndim:
        raise ValueError(
            f"{held.name}: found {held.dtype} {held.shape}, expected {dtype} {('N', *item)}"
        )
    values = np.ascontiguousarray(held[:], dtype)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"{held.name}: found NaN or infinite values")
    return values


def _read_frames(frames: Any, start: int, stop: int, info: StoreInfo) -> np.ndarray:
    """Read (L, D) frames of a data set, (K, L, D) of K layers."""
    several = bool(info.spec.layer_numbers)
    return np.asarray(frames[:, start:stop] if several else frames[start:stop])


def _import_part(group: Any, part: Path, info: StoreInfo) -> int:
    columns = {name: _column(group, name, info) for name in column_names(info, "vad" in group)}
    if problems := column_conflicts(columns, info):
        raise ValueError(f"{group.name}: {problems[0]}")
    held, layers = group[FRAMES], len(info.spec.layer_numbers)
    expected = (*((layers,) if layers else ()), int(columns["offsets"][-1]), info.frame_size)
    if held.dtype != info.dtype or held.shape != expected:
        raise ValueError(
            f"{group.name}: frames are {held.dtype} {held.shape}, expected {info.dtype} {expected}"
        )
    writers = decode(group.attrs[ATTRIBUTE]).get("writers", [])
    rows = []
    for index, name in enumerate(split_ids(columns["ids"], columns["id_offsets"])):
        start, stop = columns["offsets"][index : index + 2].tolist()
        frames = _read_frames(group[FRAMES], start, stop, info)
        found = list(map(frames_crc32c, frames if layers else frames[None]))  # (K, L, D)
        if found != np.atleast_1d(columns["frames_crc32c"][index]).tolist():
            raise ValueError(f"{group.name}: frames of {name!r} do not match their checksum")
        if info.dtype.kind == "f" and not np.isfinite(frames).all():
            raise ValueError(f"{group.name}: frames of {name!r} have NaN or infinite values")
        if layers:
            frames = frames.swapaxes(0, 1)  # (K, L, D) -> (L, K, D)
        vad = columns["vad"][index] if "vad" in columns else None
        rows.append(Row(name, columns["audio_sha256"][index], frames, vad))
    quantization = quantization_from(columns)
    require_equal_quantization(part.parent, quantization)
    add_part(part, lambda temporary: write_part(temporary, rows, info, quantization, writers))
    return len(rows)
