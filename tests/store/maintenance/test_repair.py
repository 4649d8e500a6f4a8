"""Repair: damaged rows are dropped and named, all intact rows stay."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.errors import StoreError
from rellm_cache.store.errors import UnreadableError
from rellm_cache.store.format import SHARD_BYTES, StoreInfo, list_parts, lost_path
from rellm_cache.store.maintenance.compact import compact_store
from rellm_cache.store.maintenance.repair import RepairReport, repair_store
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]


def repair(path: Path, shard_bytes: int = SHARD_BYTES) -> RepairReport:
    report = repair_store(path, silent, shard_bytes)
    assert report.unrepaired or check_store(path, silent, shard_bytes).is_intact
    return report


def flip(file: Path, position: int = -6) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def listed(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in lost_path(path).read_text().splitlines()]


def test_an_intact_store_is_unchanged(write: Write, clips: Clips) -> None:
    path = write(clips).path
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    report = repair(path)
    assert (report.problems, report.lost, report.rewritten, report.removed) == ([], [], 0, 0)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_intact_utterances_of_a_damaged_part_are_kept(write: Write, clips: Clips) -> None:
    store = write(clips)
    before = [store.audio_sha256(key) for key in clips]
    frames = {key: store.frames(key).copy() for key in clips}
    flip(store.parts[0].path / "frames/c/0/0", 3)
    with pytest.raises(
        StoreError, match=r"'clip/00' do not match .* `rellm cache repair .*` keeps"
    ):
        store.verified_frames("clip/00")
    report = repair(store.path)
    assert (report.lost, report.rewritten, report.kept) == (["clip/00"], 1, 11)
    assert listed(store.path) == ["clip/00"]
    store = FeatureStore(store.path)
    assert set(store.ids) == clips.keys() - {"clip/00"}
    for key in store.ids:
        np.testing.assert_array_equal(store.verified_frames(key), frames[key])
    assert before[1:] == [store.audio_sha256(key) for key in sorted(store.ids)]
    write({"clip/00": clips["clip/00"]})
    assert repair(store.path).lost == []
    assert not lost_path(store.path).exists()  # it is there again


def test_a_missing_shard_loses_only_its_utterances(write: Write, clips: Clips) -> None:
    store = write(clips, shard_bytes=512 * 8 * 2)
    (store.parts[0].path / "frames/c/2/0").unlink()
    report = repair(store.path, shard_bytes=512 * 8 * 2)
    assert 0 < len(report.lost) < len(clips)
    assert set(FeatureStore(store.path).ids) == clips.keys() - set(report.lost)


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
@pytest.mark.parametrize(
    "file", ["zarr.json", "ids/zarr.json", "frames/zarr.json", "offsets/zarr.json"]
)
def test_damaged_metadata_loses_nothing(write: Write, clips: Clips, file: str) -> None:
    store = write(clips)
    before = {key: store.frames(key).copy() for key in clips}
    (store.parts[0].path / file).unlink()
    report = repair(store.path)
    assert (report.lost, report.kept, report.rewritten) == ([], 12, 1)
    for key, frames in before.items():
        np.testing.assert_array_equal(FeatureStore(store.path).verified_frames(key), frames)


@pytest.mark.parametrize(
    ("column", "named"),
    [("audio_sha256/c/0/0", True), ("ids/c/0", True), ("offsets/c/0", True), ("id_offsets", False)],
)
def test_a_damaged_column_loses_the_part_and_names_its_clips(
    write: Write, clips: Clips, column: str, named: bool
) -> None:
    write({"other": clips["clip/01"]})
    store = write(clips)
    file = store.parts[1].path / column
    if file.is_dir():
        (file / "c/0").unlink()
    else:
        flip(file, 0 if column.startswith("id") else -6)
    report = repair(store.path)
    assert report.removed == 1
    assert (len(report.lost), report.nameless) == ((12, 0) if named else (0, 1))
    if column == "offsets/c/0":
        assert report.lost == sorted(clips)
    assert set(FeatureStore(store.path).ids) == {"other"}


def test_frames_of_older_audio_are_not_read_again(write: Write, clips: Clips) -> None:
    write({"a": clips["clip/00"], "b": clips["clip/01"]}, digest=0)
    store = write({"a": clips["clip/02"]}, digest=1)
    flip(store.parts[1].path / "frames/c/0/0", 0)
    assert repair(store.path).lost == ["a"]
    assert set(FeatureStore(store.path).ids) == {"b"}


def test_an_older_row_of_the_same_audio_replaces_a_damaged_one(write: Write, clips: Clips) -> None:
    write({"a": clips["clip/00"], "b": clips["clip/01"]})
    store = write({"a": clips["clip/00"]})
    flip(store.parts[1].path / "frames/c/0/0", 0)
    assert repair(store.path).lost == []
    store = FeatureStore(store.path)
    np.testing.assert_array_equal(store.verified_frames("a"), clips["clip/00"])


def test_the_order_of_parts_is_kept(write: Write, clips: Clips) -> None:
    for version in range(4):
        store = write({"a": clips[f"clip/{version:02d}"], f"b{version}": clips["clip/04"]}, version)
    flip(store.parts[1].path / "frames/c/0/0", 0)
    repair(store.path)
    store = FeatureStore(store.path)
    np.testing.assert_array_equal(store.verified_frames("a"), clips["clip/03"])
    assert [part.path.name[:11] for part in store.parts] == [f"part-00000{n}" for n in range(1, 5)]


def test_the_zarr_json_of_a_store_is_restored_from_a_part(
    write: Write, clips: Clips, info: StoreInfo
) -> None:
    store = write(clips)
    before = (store.path / "zarr.json").read_bytes()
    (store.path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"not a feature store .* try `rellm cache repair"):
        FeatureStore(store.path)
    assert repair(store.path).lost == []
    assert (store.path / "zarr.json").read_bytes() == before


@pytest.mark.parametrize("info", ["int8"], indirect=True)
def test_parts_with_another_int8_scale_are_left_to_the_user(
    write: Write, clips: Clips, write_other_scale: Callable[[Path], Path]
) -> None:
    path = write(clips).path
    write_other_scale(path.parent)
    report = repair(path)
    assert (report.rewritten, report.removed, report.lost) == (0, 0, [])
    (left,) = report.unrepaired
    assert "its int8 scale and mean differ" in left
    assert "move it out of the store and run `rellm cache quantize` again" in left
    list_parts(path)[1].rename(path.parent / "moved")
    assert repair(path).problems == []


def test_a_store_that_cannot_be_repaired_is_reported_and_unchanged(
    write: Write, clips: Clips
) -> None:
    store = write(clips)
    (store.path / "zarr.json").unlink()
    (store.parts[0].path / "zarr.json").unlink()
    report = repair(store.path)
    assert "no part has the store's attributes" in report.unrepaired[-1]
    assert len(list_parts(store.path)) == 1
    assert (store.parts[0].path / "frames/c/0/0").exists()


def test_an_unknown_folder_is_unchanged(write: Write, clips: Clips) -> None:
    store = write(clips)
    (store.path / "part-mine").mkdir()
    report = repair(store.path)
    assert [text.rpartition("/")[2] for text in report.unrepaired] == [
        "part-mine: not a part; move it out of the store"
    ]
    assert (store.path / "part-mine").exists()


def test_unreadable_parts_are_not_dropped(
    write: Write, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk error is no reason to drop a part."""
    store = write(clips)
    opened = os.open

    def failing(path: str | Path, *options: Any, **more: Any) -> int:
        if "audio_sha256" in Path(path).parts:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *options, **more)

    with monkeypatch.context() as disk:
        disk.setattr(os, "open", failing)
        with pytest.raises(
            UnreadableError, match=r"Input/output error.*but may be intact; correct its permissions"
        ):
            repair_store(store.path, silent)
    assert repair(store.path).problems == []


@pytest.mark.parametrize(
    "work",
    [
        "check_store(path, silent)",
        "[FeatureStore(path).frames(f'clip/{i:02d}') for i in range(12)]",
    ],
)
@pytest.mark.parametrize(
    ("compressed", "file"),
    [
        (False, "ids/c/0"),
        (False, "frames/c/0/0"),
        (False, "frames/zarr.json"),
        (True, "frames/zarr.json"),
        (True, "frames/c/1/0"),
    ],
)
def test_missing_permission_is_not_damage(
    write: Write,
    clips: Clips,
    tmp_path: Path,
    compress: Callable[[FeatureStore], None],
    as_another_user: Callable[[Path, str], str],
    work: str,
    compressed: bool,
    file: str,
) -> None:
    store = write(clips)
    if compressed:
        compress(store)
    tmp_path.chmod(0o755)
    target = store.parts[0].path / file
    target.chmod(0)
    said = as_another_user(store.path, work)
    target.chmod(0o644)
    assert "cannot be read (Permission denied), but may be intact" in said
    assert repair(store.path).problems == []


def test_file_times_do_not_decide_which_part_is_newest(write: Write, clips: Clips) -> None:
    """After a clock was set back, the newest part looks oldest."""
    write({"a": clips["clip/00"], "b": clips["clip/01"]}, digest=0)
    store = write({"a": clips["clip/02"]}, digest=1)
    for file in store.parts[1].path.rglob("*"):
        os.utime(file, (0, 0))
    os.utime(store.parts[1].path, (0, 0))
    repair(store.path)
    assert FeatureStore(store.path).audio_sha256("a") == bytes([1] * 32)
    compact_store(store.path, silent)
    assert FeatureStore(store.path).audio_sha256("a") == bytes([1] * 32)
    assert write({"b": clips["clip/03"]}, digest=2).audio_sha256("b") == bytes([2] * 32)
