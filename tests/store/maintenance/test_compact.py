"""Prune and compact: readers see the same clips before, during and after."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.errors import StoreError
from rellm_cache.store import commit as replace_module
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.maintenance.compact import compact_store, prune_store
from rellm_cache.store.maintenance.metadata import recorded_writers
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]


def content(path: Path) -> dict[str, Any]:
    """Id → checked frames, digest and dimensions, as a reader sees them."""
    store = FeatureStore(path)
    found = {}
    for key in store.ids:
        vad = store.vad(key)
        found[key] = (
            store.verified_frames(key).tobytes(),
            store.audio_sha256(key),
            None if vad is None else vad.tobytes(),
        )
    return found


@pytest.fixture
def layered(write: Write, clips: Clips) -> Path:
    """Five parts; `a` is in all, each time with other frames, `b` in two."""
    for version in range(5):
        rows = {"a": clips[f"clip/{version:02d}"], f"own/{version}": clips["clip/05"][version:]}
        if version in (1, 3):
            rows["b"] = clips[f"clip/{version + 5:02d}"]
        store = write(rows, digest=version)
    return store.path


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_compact_merges_all_and_changes_nothing(layered: Path, write: Write, clips: Clips) -> None:
    before = content(layered)
    report = compact_store(layered, silent)
    assert (report.parts_before, report.parts_after, report.merged) == (5, 1, [(5, 7)])
    assert content(layered) == before
    assert check_store(layered, silent).is_intact
    assert not (layered.parent / ".writing").exists()
    again = compact_store(layered, silent)
    assert (again.parts_before, again.parts_after, again.merged) == (1, 1, [])
    assert write({"a": clips["clip/09"]}, digest=9).length("a") == len(clips["clip/09"])


def test_compact_respects_the_part_size(layered: Path) -> None:
    before = content(layered)
    report = compact_store(layered, silent, part_bytes=20_000)
    assert 1 < report.parts_after < 5
    assert content(layered) == before


def test_compact_keeps_the_recorded_machines(tmp_path: Path, info: StoreInfo) -> None:
    for device in ("cpu", "gpu", "cpu"):
        with StoreWriter(tmp_path, info, writers=[{"device": device}]) as writer:
            writer.add(device, np.zeros(32, np.uint8), np.ones((5, 8)))
    compact_store(writer.path, silent)
    assert recorded_writers(list_parts(writer.path)) == [{"device": "cpu"}, {"device": "gpu"}]


def test_parts_with_and_without_dimensions_are_not_merged(tmp_path: Path, info: StoreInfo) -> None:
    for index in range(4):
        with StoreWriter(tmp_path, info) as writer:
            vad = np.full(3, index, np.float32) if index > 1 else None
            writer.add(f"{index}", np.zeros(32, np.uint8), np.ones((5, 8)), vad)
    before = content(writer.path)
    assert compact_store(writer.path, silent).parts_after == 2
    assert content(writer.path) == before


@pytest.mark.parametrize("info", ["int8"], indirect=True)
def test_parts_with_another_int8_scale_are_not_merged(
    write: Write, clips: Clips, write_other_scale: Callable[[Path], Path]
) -> None:
    path = write(clips).path
    write_other_scale(path.parent)
    before = content(path)
    assert compact_store(path, silent).parts_after == 2
    assert content(path) == before


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_prune_drops_superseded_rows(layered: Path, info: StoreInfo) -> None:
    before, parts = content(layered), list_parts(layered)
    plan = prune_store(layered, silent, dry_run=True)
    assert list_parts(layered) == parts
    report = prune_store(layered, silent)
    assert report == plan
    assert (report.superseded, report.outside, report.parts_rewritten) == (5, 0, 4)
    assert report.bytes == sum((40 + 60 * n) * info.frame_bytes for n in (0, 1, 2, 3, 6))
    assert content(layered) == before
    assert check_store(layered, silent).is_intact
    assert prune_store(layered, silent).superseded == 0


def test_prune_keeps_only_the_given_clips(layered: Path) -> None:
    before = content(layered)
    report = prune_store(layered, silent, keep={"own/4", "b"})
    assert (report.superseded, report.outside, report.parts_removed) == (5, 5, 3)
    assert content(layered) == {key: before[key] for key in ("own/4", "b")}


def test_damage_stops_both_and_names_the_repair(layered: Path) -> None:
    file = list_parts(layered)[2] / "frames/c/0/0"
    data = bytearray(file.read_bytes())
    data[9] ^= 4
    file.write_bytes(data)
    parts = list_parts(layered)
    for work in (compact_store, prune_store):
        with pytest.raises(
            StoreError, match=r"part-000003-\w+: damaged: .*run `rellm cache repair"
        ):
            work(layered, silent)
    assert parts[2] in list_parts(layered)


def test_an_older_row_stays_if_the_newer_one_is_damaged(layered: Path) -> None:
    file = list_parts(layered)[4] / "frames/c/0/0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"part-000005-\w+: damaged"):
        prune_store(layered, silent)
    assert len(list_parts(layered)) == 5
    assert sum(len(part.ids) for part in FeatureStore(layered).parts) == 12


def test_a_full_disk_loses_nothing(layered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, parts = content(layered), list_parts(layered)

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with monkeypatch.context() as disk:
        disk.setattr(replace_module, "sync_tree", full)
        with pytest.raises(StoreError, match=r"No space left .*; free some space and run the same"):
            compact_store(layered, silent)
    assert (content(layered), list_parts(layered)) == (before, parts)
    assert not (layered.parent / ".writing").exists()
    assert compact_store(layered, silent).parts_after == 1


def test_parts_added_during_a_merge_win(
    layered: Path, write: Write, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer continues while parts are merged; its parts stay newest."""

    def slow(*arguments: Any) -> None:
        write({"a": clips["clip/11"]}, digest=77)
        write_part(*arguments)

    write_part = replace_module.write_part
    monkeypatch.setattr(replace_module, "write_part", slow)
    compact_store(layered, silent)
    store = FeatureStore(layered)
    assert store.audio_sha256("a") == bytes([77] * 32)
    assert len(store.parts) == 2


def test_two_parts_with_one_number_keep_their_order(write: Write, clips: Clips) -> None:
    for version in range(3):
        path = write({"a": clips[f"clip/{version:02d}"]}, digest=version).path
    for part, name in zip(
        list_parts(path), ("000001-aaaaaaaa", "000001-aaaaaaab", "000001-aaaaaaac"), strict=True
    ):
        part.rename(path / f"part-{name}")
    before = content(path)
    both = 2 * clips["clip/01"].nbytes
    assert compact_store(path, silent, part_bytes=both).merged == [(2, 1)]
    assert content(path) == before
    assert [p.name[:20] for p in list_parts(path)] == [
        "part-000001-aaaaaaab",
        "part-000001-aaaaaaac",
    ]


def test_an_open_reader_keeps_its_maps_and_reports_the_removal(
    layered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = FeatureStore(layered)
    mapped = reader.frames("own/0")
    before = mapped.copy()
    compact_store(layered, silent)
    np.testing.assert_array_equal(mapped, before)
    np.testing.assert_array_equal(reader.frames("own/0"), before)
    with pytest.raises(StoreError, match=r"part-000002-\w+: this part was removed while the store"):
        reader.frames("own/1")


def test_a_store_that_cannot_be_written_is_unchanged(
    layered: Path, tmp_path: Path, as_another_user: Callable[[Path, str], str]
) -> None:
    parts, ids = list_parts(layered), set(FeatureStore(layered).ids)
    folders = [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    said = as_another_user(layered, "compact_store(path, silent)")
    for folder in folders:
        folder.chmod(0o755)
    assert "Permission denied" in said
    assert list_parts(layered) == parts
    assert set(FeatureStore(layered).ids) == ids
    assert len(ids) == 7
