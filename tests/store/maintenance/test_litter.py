"""A cache with files of the operating system in every folder: all commands ignore them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.cache_admin.info import cache_info
from rellm_cache.cache_admin.maintenance import (
    compact_cache,
    copy_cache,
    export_to_file,
    import_from_file,
    prune_cache,
    repair_cache,
    verify_cache,
)
from rellm_cache.store.format import list_parts, store_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils.litter import is_litter

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]

NAMES = ["._{}", ".DS_Store", "Thumbs.db", ".nfs00000000000012ab00000001"]


@pytest.fixture
def cache(write: Write, clips: Clips) -> Path:
    """A store of two parts; every folder has litter, and each file a shadow as macOS makes."""
    write(clips)
    root = write({"clip/00": clips["clip/01"]}, digest=1).path.parent
    for path in [root, *root.rglob("*")]:
        folder = path if path.is_dir() else path.parent
        for name in NAMES:
            (folder / name.format(path.name)).write_bytes(b"\0\x05\x16\x07 not ours")
    return root


def litter(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if is_litter(path)}


def frames(root: Path, clips: Clips) -> dict[str, bytes]:
    (summary,) = cache_info(root)
    store = FeatureStore(root / summary.name)
    assert store_path(root, store.spec) == store.path
    return {name: store.verified_frames(name).tobytes() for name in clips}


def test_verify_and_repair_agree_that_nothing_is_damaged(cache: Path, clips: Clips) -> None:
    before = litter(cache)
    (check,) = verify_cache(cache)
    assert (check.is_intact, check.all_unknown) == (True, [])
    done = repair_cache(cache)
    assert [(report.problems, report.unrepaired) for report in done.stores] == [([], [])]
    assert (done.removed, done.held) == ([], [])
    assert litter(cache) == before


def test_a_copy_and_an_export_have_the_frames_and_no_litter(
    cache: Path, clips: Clips, tmp_path: Path
) -> None:
    wanted = frames(cache, clips)
    (copied,) = copy_cache(cache, tmp_path / "copy")
    assert (copied.copied, litter(tmp_path / "copy")) == (2, set())
    assert frames(tmp_path / "copy", clips) == wanted
    (summary,) = cache_info(cache)
    assert export_to_file(cache / summary.name, tmp_path / "out.h5") == len(clips) + 1
    import_from_file(tmp_path / "out.h5", tmp_path / "imported")
    assert frames(tmp_path / "imported", clips) == wanted


def test_an_unknown_file_is_named_and_stays_behind(
    cache: Path, clips: Clips, tmp_path: Path
) -> None:
    (summary,) = cache_info(cache)
    note = list_parts(cache / summary.name)[0] / "notes.txt"
    note.write_text("mine")
    (check,) = verify_cache(cache)
    assert (check.is_intact, check.all_unknown) == (True, [note])
    assert repair_cache(cache).stores[0].problems == []
    assert note.read_text() == "mine"
    copy_cache(cache, tmp_path / "copy")
    assert not list((tmp_path / "copy").rglob("notes.txt"))
    assert frames(tmp_path / "copy", clips) == frames(cache, clips)


def test_pruning_and_compaction_work(cache: Path, clips: Clips) -> None:
    wanted = frames(cache, clips)
    (pruned,) = prune_cache(cache)
    assert pruned.superseded == 1
    compact_cache(cache, 256 << 20)
    assert frames(cache, clips) == wanted
    assert all(check.is_intact for check in verify_cache(cache))


def test_more_clips_can_be_added(cache: Path, write: Write, clips: Clips) -> None:
    write({"new": clips["clip/02"]})
    assert frames(cache, {"new": clips["clip/02"]})["new"] == clips["clip/02"].tobytes()
