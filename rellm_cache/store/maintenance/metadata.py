"""Metadata of a part: reading its attributes, and comparing all metadata with what was written.

A part's attributes have a checksum and digests of its arrays' metadata. Early parts have neither:
the writer's code creates their arrays again, and both are compared after zarr has parsed them,
because versions of zarr write equal metadata differently.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from rellm_cache.errors import StoreError
from rellm_cache.store.errors import raise_if_unreadable
from rellm_cache.store.format import FRAMES, StoreInfo, checksum_matches, parse_info
from rellm_cache.store.maintenance.unverified_part import UnverifiedPart, chunk_file
from rellm_cache.store.part_writer import array_digest, create_column, create_frames
from rellm_cache.utils.json_files import load
from rellm_cache.utils.litter import is_litter

# Keys of the attributes in early parts, which have no checksum.
PART_KEYS = frozenset(("utterances",))


def read_group(path: Path) -> dict[str, Any]:
    """Read the attribute `rellm` of a group's zarr.json.

    Raises `StoreError` if the file is not a group with only this attribute. Raises
    `UnreadableError` if it exists but cannot be read.
    """
    file = path / "zarr.json"
    try:
        document = load(file)
        own = document["attributes"]["rellm"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise_if_unreadable(error, file)
        raise StoreError(f"{file} cannot be read ({error})") from error
    group = {"attributes": {"rellm": own}, "zarr_format": 3, "node_type": "group"}
    if not isinstance(own, dict) or {k: v for k, v in document.items() if v is not None} != group:
        raise StoreError(f"{file}: not the metadata of a group with only the attribute 'rellm'")
    return own


def read_part_attributes(path: Path) -> dict[str, Any]:
    """Read a part's attributes; `StoreError` if they do not match their checksum."""
    own = read_group(path)
    if not checksum_matches(own, PART_KEYS):
        raise StoreError(f"{path / 'zarr.json'}: its attributes do not match their checksum")
    return own


def part_info(path: Path) -> StoreInfo | None:
    """Return a part's copy of the store's attributes; None if absent or altered."""
    try:
        own = read_part_attributes(path)
        return parse_info(own["store"], path) if "store" in own else None
    except StoreError:
        return None


def recorded_writers(parts: Iterable[Path]) -> list[dict[str, str]]:
    """List the machines that made the frames of parts, each once, as far as recorded."""
    writers: list[dict[str, str]] = []
    for part in parts:
        try:
            found = read_part_attributes(part).get("writers", [])
        except StoreError:
            continue
        writers += [writer for writer in found if writer not in writers]
    return writers


def metadata_problems(part: UnverifiedPart, info: StoreInfo) -> list[str]:
    """List differences of a part's attributes and metadata from what its writer wrote.

    Raises `UnreadableError` if a file exists but cannot be read.
    """
    try:
        own = read_part_attributes(part.path)
        of_store = parse_info(own["store"], part.path) if "store" in own else info
    except StoreError as error:
        return [str(error), *_derived_problems(part, info)]
    problems = []
    if own["utterances"] != len(part.ids):
        problems.append(
            f"its attributes give {own['utterances']} utterances, found {len(part.ids)}"
        )
    if of_store != info:
        problems.append("it belongs to another store")
    if "arrays" in own:
        problems += _digest_problems(part, own["arrays"])
    else:
        problems += _derived_problems(part, info)
    return problems


def _digest_problems(part: UnverifiedPart, digests: dict[str, str]) -> list[str]:
    """List arrays whose metadata does not match its digest in the part's attributes."""
    problems = []
    found = {FRAMES, *part.columns}
    if found != digests.keys():
        problems.append(f"its attributes name arrays {sorted(digests)}, found {sorted(found)}")
    for name in sorted(found & digests.keys()):
        if name == FRAMES and part.zarr_frames is not None:
            continue
        file = part.path / name / "zarr.json"
        try:
            if array_digest(file.parent) != digests[name]:
                problems.append(f"{file}: the metadata does not match its digest")
        except (OSError, ValueError) as error:
            raise_if_unreadable(error, file)
            problems.append(f"{file} cannot be read ({error})")
    return problems


def _derived_problems(part: UnverifiedPart, info: StoreInfo) -> list[str]:
    """List arrays of an early part whose metadata does not fit their content."""
    problems = []
    for name, column in part.columns.items():
        wanted = _column_metadata(name, column.shape, column.dtype.str)
        problems += _array_problems(part.path / name, wanted)
    if part.zarr_frames is None:
        total = int(part.columns["offsets"][-1])
        memory = zarr.create_group(MemoryStore())
        wanted = create_frames(memory, total, info).metadata.to_dict()
        problems += _array_problems(part.path / FRAMES, wanted)
    return problems


@lru_cache(256)
def _column_metadata(name: str, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    memory = zarr.create_group(MemoryStore())
    return create_column(memory, name, shape, np.dtype(dtype)).metadata.to_dict()


def _array_problems(path: Path, expected: dict[str, Any]) -> list[str]:
    try:
        found = zarr.open_array(str(path), mode="r").metadata.to_dict()
    except Exception as error:  # zarr raises any error at damaged metadata
        raise_if_unreadable(error, path)
        return [f"{path / 'zarr.json'} cannot be read ({error!r})"]
    return [
        f"{path / 'zarr.json'}: {key} is {found.get(key)!r}, expected {expected.get(key)!r}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key)
    ]


def unknown_files(part: UnverifiedPart) -> list[Path]:
    """List files that no reader looks at, without litter."""
    known = {part.path / "zarr.json", part.path / FRAMES / "zarr.json", *part.shard_files}
    for name, column in part.columns.items():
        item = column.shape[1:]
        known |= {part.path / name / "zarr.json", chunk_file(part.path, name, item)}
    found = sorted(file for file in part.path.rglob("*") if not file.is_dir())
    return [file for file in found if file not in known and not is_litter(file)]
