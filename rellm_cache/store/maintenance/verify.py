"""Verification of a store: read every byte and list all damage by part and utterance.

Columns, shard indices and the frames of each utterance have a CRC-32C, padding must be zeros,
attributes have a checksum, and the metadata of arrays has digests (see `metadata`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rellm_cache.config.specs import layers_text
from rellm_cache.errors import StoreError
from rellm_cache.store.errors import quantization_mismatch
from rellm_cache.store.format import (
    METADATA,
    PART_NAME,
    SHARD_BYTES,
    StoreInfo,
    list_parts,
    read_info,
    require_cache_root,
)
from rellm_cache.store.maintenance.metadata import (
    metadata_problems,
    part_info,
    read_group,
    unknown_files,
)
from rellm_cache.store.maintenance.unverified_part import (
    UnverifiedPart,
    column_conflicts,
    guess_ids,
    read_columns,
)
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.download import complete_part
from rellm_cache.store.remote.mirror_paths import display_path
from rellm_cache.utils.console import Tick
from rellm_cache.utils.litter import is_litter


@dataclass(frozen=True)
class PartCheck:
    """Result of verifying one part."""

    path: Path  # its folder
    problems: list[str]  # what is damaged; empty for an intact part
    # its rows; None if its columns are damaged, because then no row is certain
    contents: UnverifiedPart | None
    damaged: list[int]  # rows with damaged frames
    ids: list[str]  # of all its rows, as far as they can be read
    ids_are_intact: bool = True  # whether the columns of ids match their checksums
    unknown: Sequence[Path] = ()  # files that are no part of it and that no reader looks at

    def digest(self, row: int) -> bytes | None:
        """Return the audio digest of one row; None if the columns are damaged."""
        return self.contents.columns["audio_sha256"][row].tobytes() if self.contents else None

    @property
    def intact_rows(self) -> list[int]:
        """Rows without damage."""
        damaged = set(self.damaged)
        return [r for r in range(len(self.ids)) if r not in damaged] if self.contents else []

    @property
    def lost(self) -> list[str]:
        """Ids of the damaged rows, as far as they can be read."""
        return [self.ids[row] for row in self.damaged] if self.contents else self.ids


@dataclass(frozen=True)
class StoreCheck:
    """Result of verifying one store."""

    path: Path  # its folder
    # its attributes, from a part if its own are damaged; None if no part has them either
    info: StoreInfo | None
    problems: list[str]  # of the store's own metadata and folder, including `misplaced`
    misplaced: list[str]  # problems that a user must solve by moving something out of the store
    parts: list[PartCheck]  # result of each part, oldest first
    unknown: list[Path]  # files and folders that are neither metadata nor parts

    @property
    def all_unknown(self) -> list[Path]:
        """Files and folders in the store and in its parts that no reader looks at."""
        return [*self.unknown, *(path for part in self.parts for path in part.unknown)]

    @property
    def is_intact(self) -> bool:
        """Whether there are no problems at all."""
        return not self.problems and not any(part.problems for part in self.parts)


def find_stores(cache: Path) -> list[Path]:
    """List stores under a cache root by name, including those without their zarr.json.

    Raises `StoreError` if there are none, or `cache` is itself a store.
    """
    require_cache_root(cache)
    found = {file.parent for file in cache.glob("*/zarr.json")}
    found |= {part.parent for part in cache.glob("*/part-*") if part.is_dir()}
    found = {path for path in found if not is_litter(path)}
    if not found:
        raise StoreError(f"{display_path(cache)}: found no store; `rellm extract` makes them")
    return sorted(found)


def check_store(path: Path, tick: Tick, shard_bytes: int = SHARD_BYTES) -> StoreCheck:
    """Read and check every byte of a store; `tick` counts parts.

    Raises `UnreadableError` if a file exists but cannot be read.
    """
    problems = []
    info: StoreInfo | None = None
    try:
        info = read_info(path)
        read_group(path)
    except StoreError as error:
        problems.append(str(error))
        info = info or next(filter(None, map(part_info, list_parts(path))), None)
    if info is not None:
        info = replace(info, shard_bytes=shard_bytes)
    others = [entry for entry in sorted(path.iterdir()) if entry.name != METADATA]
    others = [e for e in others if not is_litter(e) and not PART_NAME.fullmatch(e.name)]
    taken = list_parts(path)  # by readers, also with other names
    misplaced = [f"{e}: not a part; move it out of the store" for e in others if e in taken]
    parts = []
    for part in list_parts(path):
        if info is not None and PART_NAME.fullmatch(part.name):
            check = check_stored(part, info)
            if part.exists():  # otherwise another process has replaced it
                parts.append(check)
        tick(1, path.name)
    misplaced += _mixed_quantization(parts)
    unknown = [e for e in others if e not in taken]
    return StoreCheck(path, info, [*problems, *misplaced], misplaced, parts, unknown)


def _mixed_quantization(parts: list[PartCheck]) -> Iterator[str]:
    """Yield a problem for each part with another int8 scale or mean than the first part."""
    first: tuple[Path, Quantization] | None = None
    for part in parts:
        found = part.contents.quantization if part.contents else None
        if found is not None:
            first = first or (part.path, found)
            if not found.equals(first[1]):
                yield quantization_mismatch(part.path, first[0])


def check_stored(part: Path, info: StoreInfo) -> PartCheck:
    """Read and check every byte of a part; in a mirror, of the part in the object store.

    In a mirror the result has no frames: the download is deleted at the end.
    """
    with complete_part(part) as folder:
        check = check_part(folder, info)
        if folder == part:
            return check
        if check.contents is not None:
            check.contents.release()
    problems = [problem.replace(str(folder), display_path(part)) for problem in check.problems]
    unknown = [part / file.relative_to(folder) for file in check.unknown]
    return replace(check, path=part, problems=problems, unknown=unknown)


def check_part(path: Path, info: StoreInfo) -> PartCheck:
    """Read and check every byte of a part.

    Raises `UnreadableError` if a file exists but cannot be read.
    """
    columns, problems = read_columns(path, info)
    problems = problems or column_conflicts(columns, info)
    if problems:
        known = {"ids", "id_offsets"} <= columns.keys()
        return PartCheck(path, problems, None, [], guess_ids(path), known)
    contents = UnverifiedPart(path, info, columns)
    problems = metadata_problems(contents, info)
    by_row = {row: contents.damaged_layers(row) for row in range(len(contents.ids))}
    damaged = [row for row, layers in by_row.items() if layers]
    problems += contents.problems
    if damaged:
        numbers = info.spec.layer_numbers
        found = sorted({layer for layers in by_row.values() for layer in layers})
        where = f"; layers {layers_text(tuple(numbers[k] for k in found))}" if numbers else ""
        problems.append(
            f"frames of {len(damaged)} of {len(contents.ids)} utterances do not match their "
            f"checksum{where}"
        )
    unknown = unknown_files(contents)
    return PartCheck(path, problems, contents, damaged, contents.ids, unknown=unknown)


def require_intact(check: PartCheck) -> UnverifiedPart:
    """Return the contents of a part without problems; otherwise raise `StoreError`."""
    if check.problems or check.contents is None:
        raise StoreError(
            f"{display_path(check.path)}: damaged: {check.problems[0]}; run `rellm cache repair "
            f"{display_path(check.path.parent.parent)}` first"
        )
    return check.contents
