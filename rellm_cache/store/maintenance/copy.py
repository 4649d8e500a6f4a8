"""copy. In: a store and another cache root. Out: the same parts there, each checked in full."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from rellm_cache.errors import StoreError
from rellm_cache.store.commit import add_part
from rellm_cache.store.format import StoreInfo, list_parts, read_info
from rellm_cache.store.locks import maintenance_lock
from rellm_cache.store.maintenance.verify import check_part, check_stored, require_intact
from rellm_cache.store.part import Part
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.download import complete_part
from rellm_cache.store.remote.mirror import sync_mirror
from rellm_cache.store.writer import create_store
from rellm_cache.utils.console import Tick


@dataclass
class CopyReport:
    """What copying or importing one store did.

    Attributes:
        store: the folder of the copy.
        copied: parts that were added.
        present: parts that were there already, by name.
        utterances: rows in the parts that were added.
    """

    store: Path
    copied: int = 0
    present: int = 0
    utterances: int = 0


def copy_store(path: Path, cache: Path, tick: Tick) -> CopyReport:
    """Copy the parts of a store that `cache` does not hold yet; `tick` counts parts.

    Each is read in full and checked before it appears. Killed, the same call goes on.

    Raises:
        StoreError: a part is damaged, the target cannot be written or is being maintained.
    """
    info = read_info(path)
    sync_mirror(cache)
    target = create_store(cache, info)
    report = CopyReport(target)
    if target.resolve() == path.resolve():
        raise StoreError(f"{path}: source and target are the same store; name another cache root")
    with maintenance_lock(target):
        for part in list_parts(path):
            if (target / part.name).exists():
                report.present += 1
            else:
                report.utterances += _copy_part(part, target, info)
                report.copied += 1
            tick(1, path.name)
    return report


def require_equal_quantization(store: Path, steps: Quantization | None) -> None:
    """Raise `StoreError` where values in these steps cannot join those that a store holds."""
    parts = list_parts(store)
    held = Part(parts[0], read_info(store)).quantization if parts else None
    if held is not None and steps is not None and not held.equals(steps):
        raise StoreError(
            f"{store}: its int8 values have other steps than those to be added; remove it first, "
            "or bring it up to date with `rellm cache quantize` instead"
        )


def _copy_part(part: Path, target: Path, info: StoreInfo) -> int:
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with complete_part(part) as folder:
            shutil.copytree(folder, temporary)
        copied = check_part(temporary, info)
        if copied.problems:
            require_intact(check_stored(part, info))  # names the damage where it came from
            raise StoreError(
                f"{target}: the copy of {part} is not what was read ({copied.problems[0]}); check "
                "the disk and run the same command again"
            )
        require_equal_quantization(target, copied.raw.quantization if copied.raw else None)
        count = len(copied.names)

    add_part(target / part.name, write)
    return count
