"""HDF5 export and import of a store, equal bit for bit.

Each part is a group with the same arrays and the attribute `rellm` as JSON text.
docs/cache-format.md specifies the file.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rellm_cache.errors import StoreError
from rellm_cache.store.commit import add_part
from rellm_cache.store.errors import unreadable_error
from rellm_cache.store.format import FRAMES, PART_NAME, StoreInfo, list_parts, parse_info, read_info
from rellm_cache.store.maintenance.copy import (
    CopyReport,
    add_missing_parts,
    require_equal_quantization,
)
from rellm_cache.store.maintenance.metadata import read_group
from rellm_cache.store.maintenance.unverified_part import (
    COLUMNS,
    UnverifiedPart,
    column_conflicts,
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

ATTRIBUTE = "rellm"


def export_store(path: Path, file: Path, tick: Tick) -> int:
    """Write a store to one HDF5 file, which appears when complete; return its number of rows.

    `tick` counts parts. Raises `StoreError` if a part is damaged, or the file exists or cannot be
    written.
    """
    if file.exists():
        raise StoreError(f"{file}: exists already; name another file or remove it")
    info = read_info(path)
    rows = 0

    def write(temporary: Path) -> None:
        nonlocal rows
        with h5py.File(temporary, "w") as out:
            out.attrs[ATTRIBUTE] = json.dumps(info.to_attributes()[ATTRIBUTE], ensure_ascii=False)
            for part in list_parts(path):
                contents = require_intact(check_part(part, info))
                _export_part(contents, out.create_group(part.name), info)
                rows += len(contents.ids)
                tick(1, path.name)

    try:
        write_file(file, write)
    except OSError as error:
        raise StoreError(
            f"{file}: cannot be written ({error}); check the folder and its space and run the "
            "same command again"
        ) from error
    return rows


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
    try:
        with h5py.File(file, "r") as source:
            info = parse_info(json.loads(source.attrs[ATTRIBUTE]), file)
            names = sorted(name for name in source if PART_NAME.fullmatch(name))
            sync_mirror(cache)
            store = create_store(cache, info)
            return add_missing_parts(
                store, names, lambda name: _import_part(source[name], store / name, info), tick
            )
    except PermissionError as error:
        raise unreadable_error(file, error) from error
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise StoreError(
            f"{file}: not a store that `rellm cache export` wrote, or damaged ({error}); export "
            "it again"
        ) from error


def count_parts(file: Path) -> int:
    """Count the parts in an exported file; 0 if it cannot be read."""
    try:
        with h5py.File(file, "r") as source:
            return sum(1 for name in source if PART_NAME.fullmatch(name))
    except OSError:
        return 0


def _read_frames(frames: Any, start: int, stop: int, info: StoreInfo) -> np.ndarray:
    """Read (L, D) frames of a data set, (K, L, D) of K layers."""
    several = bool(info.spec.layer_numbers)
    return np.asarray(frames[:, start:stop] if several else frames[start:stop])


def _import_part(group: Any, part: Path, info: StoreInfo) -> int:
    columns = {
        name: np.ascontiguousarray(group[name][:], COLUMNS[name][0])
        for name in column_names(info, "vad" in group)
    }
    if problems := column_conflicts(columns, info):
        raise ValueError(f"{group.name}: {problems[0]}")
    if group[FRAMES].dtype != info.dtype:
        raise ValueError(f"{group.name}: frames are {group[FRAMES].dtype}, expected {info.dtype}")
    writers = json.loads(group.attrs[ATTRIBUTE]).get("writers", [])
    rows = []
    for index, name in enumerate(split_ids(columns["ids"], columns["id_offsets"])):
        start, stop = columns["offsets"][index : index + 2].tolist()
        frames = _read_frames(group[FRAMES], start, stop, info)
        layers = frames if info.spec.layer_numbers else frames[None]  # (K, L, D)
        found = list(map(frames_crc32c, layers))
        if found != np.atleast_1d(columns["frames_crc32c"][index]).tolist():
            raise ValueError(f"{group.name}: frames of {name!r} do not match their checksum")
        if info.spec.layer_numbers:
            frames = frames.swapaxes(0, 1)  # (K, L, D) -> (L, K, D)
        vad = columns["vad"][index] if "vad" in columns else None
        rows.append(Row(name, columns["audio_sha256"][index], frames, vad))
    quantization = quantization_from(columns)
    require_equal_quantization(part.parent, quantization)
    add_part(part, lambda temporary: write_part(temporary, rows, info, quantization, writers))
    return len(rows)
