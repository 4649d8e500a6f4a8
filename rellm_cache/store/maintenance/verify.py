"""verify. In: a store's folder. Out: every problem, by part, with the utterances it concerns.

Every byte of a store is covered: columns and shard indices by their CRC-32C, frames by one for
each utterance, padding by being zero, attributes by a checksum, and the metadata of arrays by the
digests among the attributes, or, in parts from before these, by what the columns ask for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rellm_cache.errors import StoreError
from rellm_cache.store.errors import quantization_mismatch
from rellm_cache.store.format import PART_NAME, StoreInfo, list_parts, read_info, require_cache_root
from rellm_cache.store.maintenance.metadata import metadata_problems, part_info, read_group
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


@dataclass(frozen=True)
class PartCheck:
    """What one part is worth.

    Attributes:
        path: its folder.
        problems: what is wrong, each complete; none in a whole part.
        raw: its rows; None where its columns are damaged, so that no row can be believed.
        broken: rows whose frames are damaged.
        names: the ids of all its rows, as far as they can be read.
        names_are_whole: whether they are what was written.
    """

    path: Path
    problems: list[str]
    raw: UnverifiedPart | None
    broken: list[int]
    names: list[str]
    names_are_whole: bool = True

    def digest(self, row: int) -> bytes | None:
        """Of the audio of one row; None where that cannot be believed."""
        return self.raw.columns["audio_sha256"][row].tobytes() if self.raw else None

    @property
    def whole(self) -> list[int]:
        """Rows that are what was written."""
        broken = set(self.broken)
        return [r for r in range(len(self.names)) if r not in broken] if self.raw else []

    @property
    def lost(self) -> list[str]:
        """Ids of the rows that are damaged, as far as they can be read."""
        return [self.names[row] for row in self.broken] if self.raw else self.names


@dataclass(frozen=True)
class StoreCheck:
    """What verifying one store found.

    Attributes:
        path: its folder.
        info: its attributes, from a part where its own are damaged; None where no part has them.
        problems: with the store's own metadata and folder, `misplaced` included.
        misplaced: problems that no repair mends: what someone has to move out of the store.
        parts: a check of each part, oldest first.
    """

    path: Path
    info: StoreInfo | None
    problems: list[str]
    misplaced: list[str]
    parts: list[PartCheck]

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong anywhere."""
        return not self.problems and not any(part.problems for part in self.parts)


def find_stores(cache: Path) -> list[Path]:
    """Stores under a cache root, by name, those without their zarr.json included.

    Raises:
        StoreError: there is none, or it is a store itself.
    """
    require_cache_root(cache)
    found = {file.parent for pattern in ("*/zarr.json", "*/part-*") for file in cache.glob(pattern)}
    if not found:
        raise StoreError(f"{display_path(cache)}: found no store; `rellm extract` makes them")
    return sorted(found)


def check_store(path: Path, tick: Tick) -> StoreCheck:
    """Read every byte of a store; `tick` counts its parts.

    Raises:
        UnreadableError: a file that is there cannot be read now.
    """
    problems = []
    info: StoreInfo | None
    try:
        info = read_info(path)
    except StoreError as error:
        problems.append(str(error))
        info = next(filter(None, map(part_info, list_parts(path))), None)
    else:
        problems += _metadata_problems(path)
    misplaced = [*_unexpected_entries(path)]
    parts = []
    for part in list_parts(path):
        if info is not None and PART_NAME.fullmatch(part.name):
            check = check_stored(part, info)
            if part.exists():  # else another process replaced it meanwhile
                parts.append(check)
        tick(1, path.name)
    misplaced += _mixed_quantization(parts)
    return StoreCheck(path, info, [*problems, *misplaced], misplaced, parts)


def _mixed_quantization(parts: list[PartCheck]) -> Iterator[str]:
    """Parts of an int8 store whose values stand for others than those of its first part."""
    first: tuple[Path, Quantization] | None = None
    for part in parts:
        steps = part.raw.quantization if part.raw else None
        if steps is not None:
            first = first or (part.path, steps)
            if not steps.equals(first[1]):
                yield quantization_mismatch(part.path, first[0])


def _metadata_problems(path: Path) -> list[str]:
    try:
        read_group(path)
    except StoreError as error:
        return [str(error)]
    return []


def _unexpected_entries(path: Path) -> Iterator[str]:
    """What lies in a store's folder and is neither its metadata nor a part."""
    for entry in sorted(path.iterdir()):
        if entry.name != "zarr.json" and not PART_NAME.fullmatch(entry.name):
            yield f"{entry}: not a part; move it out of the store"


def check_stored(part: Path, info: StoreInfo) -> PartCheck:
    """Read every byte of a part where it is stored: of a copy, in the object store.

    There the rows of what is returned have no frames any more.
    """
    with complete_part(part) as folder:
        check = check_part(folder, info)
        if folder == part:
            return check
        if check.raw is not None:
            check.raw.release()
    problems = [problem.replace(str(folder), display_path(part)) for problem in check.problems]
    return replace(check, path=part, problems=problems)


def check_part(path: Path, info: StoreInfo) -> PartCheck:
    """Read every byte of a part.

    Raises:
        UnreadableError: a file that is there cannot be read now.
    """
    columns, problems = read_columns(path, info)
    problems = problems or column_conflicts(columns, info)
    if problems:
        known = {"ids", "id_offsets"} <= columns.keys()
        return PartCheck(path, problems, None, [], guess_ids(path), known)
    raw = UnverifiedPart(path, info, columns)
    problems = metadata_problems(raw, info)
    broken = []
    for row in range(len(raw.ids)):
        try:
            raw.frames(row)
        except StoreError:
            broken.append(row)
    problems += raw.problems
    if broken:
        problems.append(
            f"frames of {len(broken)} of {len(raw.ids)} utterances do not match their checksum"
        )
    return PartCheck(path, problems, raw, broken, raw.ids)


def require_intact(check: PartCheck) -> UnverifiedPart:
    """The rows of a part without any problem, else `StoreError` with the repair."""
    if check.problems or check.raw is None:
        raise StoreError(
            f"{display_path(check.path)}: damaged: {check.problems[0]}; run `rellm cache repair "
            f"{display_path(check.path.parent.parent)}` first"
        )
    return check.raw
