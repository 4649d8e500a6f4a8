"""Copy of a store to another cache root, part by part, with all checksums compared."""

import shutil
from collections.abc import Callable, Iterable
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
from rellm_cache.utils.litter import is_litter


@dataclass
class CopyReport:
    """Result of copying or importing one store."""

    store: Path  # folder of the copy
    copied: int = 0  # number of parts added
    present: int = 0  # number of parts that existed already, by name
    utterances: int = 0  # rows in the added parts


def copy_store(path: Path, cache: Path, tick: Tick) -> CopyReport:
    """Copy the parts of a store that `cache` lacks; each is checked before it appears.

    A killed call continues when repeated. `tick` counts parts. Raises `StoreError` if a part is
    damaged, or the target cannot be written or is in maintenance.
    """
    info = read_info(path)
    sync_mirror(cache)
    target = create_store(cache, info)
    if target.resolve() == path.resolve():
        raise StoreError(f"{path}: source and target are the same store; name another cache root")
    names = [part.name for part in list_parts(path)]
    return add_missing_parts(
        target, names, lambda name: _copy_part(path / name, target, info), tick
    )


def add_missing_parts(
    store: Path, names: Iterable[str], add: Callable[[str], int], tick: Tick
) -> CopyReport:
    """Call `add` for each part that a store lacks; `add` adds it and returns its number of rows."""
    report = CopyReport(store)
    with maintenance_lock(store):
        for name in names:
            if (store / name).exists():
                report.present += 1
            else:
                report.utterances += add(name)
                report.copied += 1
            tick(1, store.name)
    return report


def require_equal_quantization(store: Path, added: Quantization | None) -> None:
    """Raise `StoreError` unless int8 frames with this scale and mean can be added to a store."""
    parts = list_parts(store)
    held = Part(parts[0], read_info(store)).quantization if parts else None
    if held is not None and added is not None and not held.equals(added):
        raise StoreError(
            f"{store}: its int8 scale and mean differ from those of the added frames; remove this "
            "store first, or update it with `rellm cache quantize` instead"
        )


def _litter(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if is_litter(Path(name))]


def _copy_part(part: Path, target: Path, info: StoreInfo) -> int:
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with complete_part(part) as folder:
            shutil.copytree(folder, temporary, ignore=_litter)
        copied = check_part(temporary, info)
        for file in copied.unknown:
            file.unlink()
        if copied.problems:
            require_intact(check_stored(part, info))  # raises if the source is damaged
            raise StoreError(
                f"{target}: the copy of {part} differs from the source ({copied.problems[0]}); "
                "check the disk and run the same command again"
            )
        require_equal_quantization(
            target, copied.contents.quantization if copied.contents else None
        )
        count = len(copied.ids)

    add_part(target / part.name, write)
    return count
