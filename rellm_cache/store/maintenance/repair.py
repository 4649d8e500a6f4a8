"""Repair of a store: keep every intact row, drop damaged ones, and list the clips to extract again.

Intact rows of a damaged part are written to a new part before the damaged part is removed. The list
of lost clips is on disk before anything is dropped.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rellm_cache.errors import StoreError
from rellm_cache.store.commit import replace_parts, restore_metadata
from rellm_cache.store.format import SHARD_BYTES, StoreInfo, lost_path
from rellm_cache.store.locks import maintenance_lock
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.maintenance.unverified_part import UnverifiedPart
from rellm_cache.store.maintenance.verify import PartCheck, StoreCheck, check_store
from rellm_cache.store.remote.download import complete_part
from rellm_cache.store.remote.upload import upload_file
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.console import Tick
from rellm_cache.utils.resumable_table import read_rows


@dataclass
class RepairReport:
    """Result of repairing one store."""

    store: Path  # its folder
    problems: list[str] = field(default_factory=list)  # all problems found
    unrepaired: list[str] = field(default_factory=list)  # problems that remain, with instructions
    rewritten: int = 0  # damaged parts with some rows kept
    removed: int = 0  # damaged parts with no row kept
    kept: int = 0  # utterances kept from damaged parts
    # ids to extract again; `lost_path(store)` lists them all
    lost: list[str] = field(default_factory=list)
    nameless: int = 0  # removed parts with unreadable ids


def repair_store(path: Path, tick: Tick, shard_bytes: int = SHARD_BYTES) -> RepairReport:
    """Drop the damaged rows of a store and keep all intact ones.

    A killed call continues when repeated; no intact row is lost. `tick` counts parts. Raises
    `StoreError` if another process maintains the store, or it cannot be written.
    """
    with maintenance_lock(path):
        check = check_store(path, tick, shard_bytes)
        report = RepairReport(path, [*check.problems])
        report.problems += [f"{p.path}: {problem}" for p in check.parts for problem in p.problems]
        if check.info is None:
            report.unrepaired = [
                *check.problems,
                f"{path}: no part has the store's attributes; copy its zarr.json from another "
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
            keep = [row for row in part.intact_rows if row not in plan.stale.get(part.path, ())]
            if part.problems or len(keep) < len(part.ids):
                _keep_rows(part, keep, check.info)
            if part.problems:
                report.rewritten += bool(keep)
                report.removed += not keep
                report.kept += len(keep)
                report.nameless += not part.ids
    return report


def _keep_rows(part: PartCheck, keep: list[int], info: StoreInfo) -> None:
    """Replace a part by one with only the rows to keep; remove it if there are none."""
    if part.contents is None or not keep:
        replace_parts([part.path], [], info)
        return
    with complete_part(part.path) as folder:
        contents = UnverifiedPart(folder, info, part.contents.columns)
        rows = [contents.row(row) for row in keep]
        writers = recorded_writers([part.path])
        replace_parts([part.path], rows, info, contents.quantization, writers)


@dataclass(frozen=True)
class _Plan:
    """What a repair keeps and drops."""

    present: set[str] = field(default_factory=set)  # ids that can be read after the repair
    lost: dict[str, str] = field(default_factory=dict)  # id → name of the part with its damaged row
    # part → intact rows that are dropped too: their audio is older, and readers would find them
    # after the newer row is gone
    stale: dict[Path, set[int]] = field(default_factory=dict)


def _plan(check: StoreCheck) -> _Plan:
    """Plan a repair; an older row replaces a damaged one if both have the same audio digest."""
    plan = _Plan()
    digests: dict[str, bytes | None] = {}  # id → digest of its newest row, if damaged
    for part in reversed(check.parts):
        intact = set(part.intact_rows)
        for row, name in enumerate(part.ids):
            if name in plan.present:
                continue
            if row not in intact:
                plan.lost.setdefault(name, part.path.name)
                if part.ids_are_intact:
                    digests.setdefault(name, part.digest(row))
            elif name in digests and part.digest(row) != digests[name]:
                plan.stale.setdefault(part.path, set()).add(row)
            else:
                plan.present.add(name)
    for name in plan.present & plan.lost.keys():
        del plan.lost[name]
    return plan


def _read_lost(path: Path) -> dict[str, str]:
    """Id → part of the clips in a list of lost ones, which may not exist."""
    lost: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), 1):
        match row:
            case {"id": str(name), "part": str(part)}:
                lost[name] = part
            case _:
                raise StoreError(
                    f"{path}:{number}: found {row!r:.80}, expected the id and part of a lost clip; "
                    "remove this line"
                )
    return lost


def _record_lost(store: Path, plan: _Plan) -> None:
    """Update the list of lost clips; clips that are in the store again are removed from it."""
    path = lost_path(store)
    lost = _read_lost(path) | plan.lost
    rows = [{"id": name, "part": lost[name]} for name in lost if name not in plan.present]
    if not rows:
        if path.exists():
            path.unlink()
            upload_file(path)
        return
    write_lines(path, rows)
    upload_file(path)
