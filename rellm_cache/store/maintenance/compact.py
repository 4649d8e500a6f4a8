"""prune and compact. In: a store. Out: the same clips in fewer bytes, or in fewer parts.

Both read what they write again through every checksum, and stop at damage: `repair` comes first.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rellm_cache.store.commit import replace_parts
from rellm_cache.store.errors import damage_error
from rellm_cache.store.format import StoreInfo, list_parts, read_info
from rellm_cache.store.locks import maintenance_lock
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.maintenance.unverified_part import (
    UnverifiedPart,
    column_conflicts,
    quantization_from,
    read_columns,
    split_ids,
)
from rellm_cache.store.maintenance.verify import check_part, require_intact
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.writer import PART_BYTES
from rellm_cache.utils.console import Tick


@dataclass(frozen=True)
class _Rows:
    """The rows of one part by its columns alone; no frame is read yet."""

    path: Path
    ids: list[str]
    offsets: np.ndarray
    has_vad: bool
    quantization: Quantization | None

    def nbytes(self, row: int, info: StoreInfo) -> int:
        return int(self.offsets[row + 1] - self.offsets[row]) * info.frame_bytes

    def mixes_with(self, other: "_Rows") -> bool:
        """Whether rows of both can be in one part."""
        a, b = self.quantization, other.quantization
        return self.has_vad == other.has_vad and (a is None or b is None or a.equals(b))


@dataclass
class PruneReport:
    """What pruning one store frees.

    Attributes:
        store: its folder.
        superseded: rows of which a newer part holds the same id.
        outside: clips that no given manifest names.
        bytes: of their frames.
        parts_rewritten: parts that keep other rows.
        parts_removed: parts that keep none.
    """

    store: Path
    superseded: int = 0
    outside: int = 0
    bytes: int = 0
    parts_rewritten: int = 0
    parts_removed: int = 0


def prune_store(
    path: Path, tick: Tick, keep: Collection[str] | None = None, dry_run: bool = False
) -> PruneReport:
    """Drop rows that no reader sees and, where `keep` is given, clips that are not in it.

    A kill at any point loses nothing that stays; run again, it finishes. `tick` counts parts.

    Raises:
        StoreError: a part is damaged, the store cannot be written or is being maintained.
    """
    with maintenance_lock(path):
        info = read_info(path)
        parts = _read_parts(path, info)
        newest = {name: part.path for part in parts for name in part.ids}
        report = PruneReport(path)
        dropped: dict[Path, list[int]] = {}
        superseding: set[Path] = set()
        for part in parts:
            for row, name in enumerate(part.ids):
                outside = keep is not None and name not in keep
                superseded = newest[name] != part.path
                if outside or superseded:
                    dropped.setdefault(part.path, []).append(row)
                    report.bytes += part.nbytes(row, info)
                    report.superseded += superseded
                    report.outside += outside and not superseded
                    superseding |= {newest[name]} if superseded and not outside else set()
        report.parts_removed = sum(len(dropped.get(p.path, ())) == len(p.ids) for p in parts)
        report.parts_rewritten = len(dropped) - report.parts_removed
        if not dry_run:
            for part_path in superseding:  # the older row goes only if the newer one is whole
                require_intact(check_part(part_path, info))
            for part in parts:
                if part.path in dropped:
                    _drop(part, set(dropped[part.path]), info)
                tick(1, path.name)
    return report


def _drop(part: _Rows, rows: set[int], info: StoreInfo) -> None:
    kept = [row for row in range(len(part.ids)) if row not in rows]
    if kept:
        raw = require_intact(check_part(part.path, info))
        stay = [raw.row(row) for row in kept]
        replace_parts([part.path], stay, info, part.quantization, recorded_writers([part.path]))
    else:
        replace_parts([part.path], [], info)


@dataclass
class CompactReport:
    """What compacting one store did.

    Attributes:
        store: its folder.
        parts_before: committed parts at the start.
        parts_after: the same at the end.
        merged: (old parts, utterances) of each part that was made.
    """

    store: Path
    parts_before: int = 0
    parts_after: int = 0
    merged: list[tuple[int, int]] = field(default_factory=list)


def compact_store(path: Path, tick: Tick, part_bytes: int = PART_BYTES) -> CompactReport:
    """Merge neighbouring parts as long as the frames of a part stay within `part_bytes`.

    A kill at any point loses nothing; run again, it finishes. `tick` counts parts.

    Raises:
        StoreError: a part is damaged, the store cannot be written or is being maintained.
    """
    with maintenance_lock(path):
        info = read_info(path)
        parts = _read_parts(path, info)
        report = CompactReport(path, len(parts), len(parts))
        for run in _runs(parts, info, part_bytes):
            if len(run) > 1:
                count = _merge(run, info)
                report.merged.append((len(run), count))
                report.parts_after -= len(run) - 1
            tick(len(run), path.name)
    return report


def _runs(parts: list[_Rows], info: StoreInfo, part_bytes: int) -> list[list[_Rows]]:
    """Neighbours that fit into one part and mix."""
    runs: list[list[_Rows]] = []
    size = 0
    for part in parts:
        own = int(part.offsets[-1]) * info.frame_bytes
        if runs and size + own <= part_bytes and runs[-1][0].mixes_with(part):
            runs[-1].append(part)
            size += own
        else:
            runs.append([part])
            size = own
    return runs


def _merge(run: list[_Rows], info: StoreInfo) -> int:
    """One part in place of a run; the newest row of each id stays, in the order of the parts."""
    newest = {name: index for index, part in enumerate(run) for name in part.ids}
    rows = []
    for index, part in enumerate(run):
        raw: UnverifiedPart = require_intact(check_part(part.path, info))
        rows += [raw.row(row) for row, name in enumerate(part.ids) if newest[name] == index]
    paths = [part.path for part in run]
    replace_parts(paths, rows, info, run[0].quantization, recorded_writers(paths))
    return len(rows)


def _read_parts(store: Path, info: StoreInfo) -> list[_Rows]:
    """Every part by its columns, oldest first; `StoreError` where one is damaged."""
    parts = []
    for path in list_parts(store):
        columns, problems = read_columns(path, info)
        problems = problems or column_conflicts(columns, info)
        if problems:
            raise damage_error(path, problems[0])
        ids, steps = split_ids(columns), quantization_from(columns)
        parts.append(_Rows(path, ids, columns["offsets"], "vad" in columns, steps))
    return parts
