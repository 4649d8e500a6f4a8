"""Compaction and pruning: merge small parts, and drop rows that no reader sees.

Both compare the checksums of all rows that they rewrite, and stop at damage.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rellm_cache.corpus.speed_copies import is_copy_of
from rellm_cache.store.commit import replace_parts
from rellm_cache.store.errors import damage_error
from rellm_cache.store.format import StoreInfo, list_parts, read_info
from rellm_cache.store.locks import maintenance_lock
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.maintenance.unverified_part import (
    column_conflicts,
    quantization_from,
    read_columns,
)
from rellm_cache.store.maintenance.verify import check_part, require_intact
from rellm_cache.store.part import split_ids
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.writer import PART_BYTES
from rellm_cache.utils.console import Tick


@dataclass(frozen=True)
class _PartColumns:
    """The columns of one part; no frame is read yet."""

    path: Path
    ids: list[str]
    offsets: np.ndarray
    has_vad: bool
    quantization: Quantization | None

    def nbytes(self, row: int, info: StoreInfo) -> int:
        return int(self.offsets[row + 1] - self.offsets[row]) * info.frame_bytes * info.layer_count

    def can_merge_with(self, other: "_PartColumns") -> bool:
        """Return whether one part can hold the rows of both."""
        a, b = self.quantization, other.quantization
        return self.has_vad == other.has_vad and (a is None or b is None or a.equals(b))


@dataclass
class PruneReport:
    """Result of pruning one store."""

    store: Path  # its folder
    superseded: int = 0  # dropped rows with an id that a newer part has too
    outside: int = 0  # dropped clips that are in none of the given manifests
    bytes: int = 0  # size of all dropped frames
    parts_rewritten: int = 0  # parts with some rows dropped
    parts_removed: int = 0  # parts with all rows dropped


def prune_store(
    path: Path, tick: Tick, keep: Collection[str] | None = None, dry_run: bool = False
) -> PruneReport:
    """Drop superseded rows and, if `keep` is given, the clips that are not in it.

    Copies of clips at other speeds stay with their clips.

    A killed call continues when repeated; no row to be kept is lost. `tick` counts parts. Raises
    `StoreError` if a part is damaged, or the store cannot be written or is in maintenance.
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
                outside = keep is not None and name not in keep and not is_copy_of(name, keep)
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
            for part_path in superseding:  # drop an older row only if the newer one is intact
                require_intact(check_part(part_path, info))
            for part in parts:
                if part.path in dropped:
                    _drop(part, set(dropped[part.path]), info)
                tick(1, path.name)
    return report


def _drop(part: _PartColumns, rows: set[int], info: StoreInfo) -> None:
    kept = [row for row in range(len(part.ids)) if row not in rows]
    if kept:
        contents = require_intact(check_part(part.path, info))
        rows_kept = [contents.row(row) for row in kept]
        writers = recorded_writers([part.path])
        replace_parts([part.path], rows_kept, info, part.quantization, writers)
    else:
        replace_parts([part.path], [], info)


@dataclass
class CompactReport:
    """Result of compacting one store."""

    store: Path  # its folder
    parts_before: int = 0  # number of committed parts at the start
    parts_after: int = 0  # the same at the end
    # (old parts, utterances) of each merged part
    merged: list[tuple[int, int]] = field(default_factory=list)


def compact_store(path: Path, tick: Tick, part_bytes: int = PART_BYTES) -> CompactReport:
    """Merge adjacent parts up to `part_bytes` of frames in one part.

    A killed call continues when repeated; nothing is lost. `tick` counts parts. Raises `StoreError`
    if a part is damaged, or the store cannot be written or is in maintenance.
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


def _runs(parts: list[_PartColumns], info: StoreInfo, part_bytes: int) -> list[list[_PartColumns]]:
    """Group adjacent parts that fit into one part and can be merged."""
    runs: list[list[_PartColumns]] = []
    size = 0
    for part in parts:
        own = int(part.offsets[-1]) * info.frame_bytes * info.layer_count
        if runs and size + own <= part_bytes and runs[-1][0].can_merge_with(part):
            runs[-1].append(part)
            size += own
        else:
            runs.append([part])
            size = own
    return runs


def _merge(run: list[_PartColumns], info: StoreInfo) -> int:
    """Replace a run by one part with the newest row of each id; return its number of rows."""
    newest = {name: index for index, part in enumerate(run) for name in part.ids}
    rows = []
    for index, part in enumerate(run):
        contents = require_intact(check_part(part.path, info))
        rows += [contents.row(row) for row, name in enumerate(part.ids) if newest[name] == index]
    paths = [part.path for part in run]
    replace_parts(paths, rows, info, run[0].quantization, recorded_writers(paths))
    return len(rows)


def _read_parts(store: Path, info: StoreInfo) -> list[_PartColumns]:
    """Read the columns of all parts, oldest first; `StoreError` if one is damaged."""
    parts = []
    for path in list_parts(store):
        columns, problems = read_columns(path, info)
        problems = problems or column_conflicts(columns, info)
        if problems:
            raise damage_error(path, problems[0])
        ids = split_ids(columns["ids"], columns["id_offsets"])
        quantization = quantization_from(columns)
        parts.append(_PartColumns(path, ids, columns["offsets"], "vad" in columns, quantization))
    return parts
