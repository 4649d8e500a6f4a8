"""repair. In: a store. Out: the same store without what is broken, and the clips to extract again.

Whole rows of a damaged part are written to a new part before the damaged one goes. The list of
what is lost is on disk before anything is dropped.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from rellm_cache.store.commit import replace_parts, restore_metadata
from rellm_cache.store.format import StoreInfo, lost_path
from rellm_cache.store.locks import maintenance_lock
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.maintenance.unverified_part import UnverifiedPart
from rellm_cache.store.maintenance.verify import PartCheck, StoreCheck, check_store
from rellm_cache.store.remote.download import complete_part
from rellm_cache.store.remote.upload import upload_file
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.console import Tick


@dataclass
class RepairReport:
    """What was done to one store.

    Attributes:
        store: its folder.
        problems: that were found.
        unrepaired: problems that remain, with what to do.
        rewritten: damaged parts of which whole rows were kept.
        removed: damaged parts of which nothing could be kept.
        kept: utterances of damaged parts that were kept.
        lost: ids to extract again; all are listed in `lost_path(store)`.
        nameless: removed parts whose ids could not be read.
    """

    store: Path
    problems: list[str] = field(default_factory=list)
    unrepaired: list[str] = field(default_factory=list)
    rewritten: int = 0
    removed: int = 0
    kept: int = 0
    lost: list[str] = field(default_factory=list)
    nameless: int = 0


def repair_store(path: Path, tick: Tick) -> RepairReport:
    """Drop what is broken in a store, keeping every whole row; `tick` counts its parts.

    A kill at any point loses nothing; run again, it finishes.

    Raises:
        StoreError: another process maintains the store, or it cannot be written.
    """
    with maintenance_lock(path):
        check = check_store(path, tick)
        report = RepairReport(path, [*check.problems])
        report.problems += [f"{p.path}: {problem}" for p in check.parts for problem in p.problems]
        if check.info is None:
            report.unrepaired = [
                *check.problems,
                f"{path}: no part carries the store's attributes; copy its zarr.json from another "
                "copy of this store, or move it away and extract into a new one",
            ]
            return report
        if check.problems:
            restore_metadata(path, check.info)
            report.unrepaired = check.misplaced
        plan = _plan(check)
        report.lost = sorted(plan.lost)
        _record_lost(path, plan)
        for part in check.parts:
            keep = [row for row in part.whole if row not in plan.stale.get(part.path, ())]
            if part.problems or len(keep) < len(part.names):
                _keep_rows(part, keep, check.info)
            if part.problems:
                report.rewritten += bool(keep)
                report.removed += not keep
                report.kept += len(keep)
                report.nameless += not part.names
    return report


def _keep_rows(part: PartCheck, keep: list[int], info: StoreInfo) -> None:
    """Put a part of some whole rows of a part in its place; without rows it just goes."""
    if part.raw is None or not keep:
        replace_parts([part.path], [], info)
        return
    with complete_part(part.path) as folder:
        raw = UnverifiedPart(folder, info, part.raw.columns)
        rows = [raw.row(row) for row in keep]
        replace_parts([part.path], rows, info, raw.quantization, recorded_writers([part.path]))


@dataclass(frozen=True)
class _Plan:
    """What a repair does to rows.

    Attributes:
        present: ids that can be read afterwards.
        lost: id → the part whose row of it was broken.
        stale: part → whole rows to drop all the same: frames of older audio, which would show
            again now that the newer ones are gone.
    """

    present: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    stale: dict[Path, set[int]] = field(default_factory=dict)


def _plan(check: StoreCheck) -> _Plan:
    """What stays, newest part first; an older row stands in for a broken one of equal audio."""
    plan = _Plan()
    digests: dict[str, bytes | None] = {}  # of the newest row of an id, where that is broken
    for part in reversed(check.parts):
        whole = set(part.whole)
        for row, name in enumerate(part.names):
            if name in plan.present:
                continue
            if row not in whole:
                plan.lost.setdefault(name, part.path.name)
                if part.names_are_whole:
                    digests.setdefault(name, part.digest(row))
            elif name in digests and part.digest(row) != digests[name]:
                plan.stale.setdefault(part.path, set()).add(row)
            else:
                plan.present.add(name)
    for name in plan.present & plan.lost.keys():
        del plan.lost[name]
    return plan


def _record_lost(store: Path, plan: _Plan) -> None:
    """Bring the list beside the store up to date: clips that are there again leave it."""
    path = lost_path(store)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    lost = {row["id"]: row["part"] for row in map(json.loads, lines)} | plan.lost
    rows = [{"id": name, "part": lost[name]} for name in lost if name not in plan.present]
    if not rows:
        if path.exists():
            path.unlink()
            upload_file(path)
        return
    write_lines(path, rows)
    upload_file(path)
