"""Mirrors: they hold exactly the complete parts of the object store."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo, failures_path, list_parts, list_stores, lost_path
from rellm_cache.store.maintenance.compact import compact_store, prune_store
from rellm_cache.store.maintenance.copy import copy_store
from rellm_cache.store.maintenance.repair import repair_store
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.client import Remote
from rellm_cache.store.remote.mirror import open_mirror, pull
from rellm_cache.store.remote.mirror_paths import display_path, mirror_folder
from rellm_cache.store.remote.upload import upload_file
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]
Content = Callable[[Path], dict[str, tuple[bytes, bytes]]]


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def only_store(root: Path) -> Path:
    (store,) = list_stores(root)
    return store


@pytest.fixture
def local(write: Write, clips: Clips) -> Path:
    """A store in a folder: two parts that share a clip."""
    half = dict(list(clips.items())[:6])
    write(half, digest=0)
    return write({"clip/00": clips["clip/07"], "clip/08": clips["clip/08"]}, digest=1).path


@pytest.fixture
def remote(s3: Any, local: Path) -> Path:
    """The mirror of the same store in an object store, with no frames downloaded."""
    copy_store(local, open_mirror(s3.url), silent)
    s3.forget_copies()
    s3.requests.lines.clear()
    return only_store(open_mirror(s3.url))


def test_a_mirror_reads_like_its_source(
    remote: Path, local: Path, s3: Any, content: Content
) -> None:
    store, same = FeatureStore(remote), FeatureStore(local)
    assert s3.requests.of_frames() == []
    assert list(store.ids) == list(same.ids)
    assert store.nbytes == same.nbytes  # of the store, not of what is here
    assert content(remote) == content(local)
    assert sorted(s3.requests.of_frames()) == sorted(
        f"{remote.name}/{part.name}/frames/c/0/0" for part in list_parts(remote)
    )
    assert files(remote) == files(local)
    assert display_path(remote) == f"{s3.url}/{remote.name}"


def test_opening_again_downloads_only_new_parts(
    remote: Path, local: Path, write: Write, clips: Clips, s3: Any
) -> None:
    write({"new": clips["clip/01"]})
    copy_store(local, remote.parent, silent)
    shutil.rmtree(list_parts(remote)[0])
    s3.requests.lines.clear()
    assert open_mirror(f"{s3.url}/") == remote.parent
    fetched = {line.split("/part-")[1][:6] for line in s3.requests.lines if "/part-" in line}
    assert fetched == {"000001"}
    assert set(FeatureStore(remote).ids) == set(FeatureStore(local).ids)


def test_a_part_without_its_metadata_is_ignored(remote: Path, s3: Any) -> None:
    part = list_parts(remote)[1].name
    s3.files.rm_file(s3.path(f"{remote.name}/{part}/zarr.json"))
    s3.forget_copies()
    (found,) = list_parts(only_store(open_mirror(s3.url)))
    assert found.name != part


def test_names_with_dots_are_ignored(remote: Path, s3: Any) -> None:
    part = list_parts(remote)[0].name
    for name in ("../zarr.json", ".writing/zarr.json", f"{remote.name}/{part}/../../../x", "a.txt"):
        s3.files.pipe_file(f"{s3.path('')}{name}", b"{}")
    before = files(s3.copies)
    pull(remote.parent)
    assert files(s3.copies) == before
    assert not list(s3.copies.parent.glob("zarr.json"))


def test_parts_removed_from_the_object_store_are_removed_from_the_mirror(
    remote: Path, s3: Any
) -> None:
    FeatureStore(remote).frames("clip/08")
    gone, stays = list_parts(remote)[1], list_parts(remote)[0]
    s3.files.rm(s3.path(f"{remote.name}/{gone.name}"), recursive=True)
    pull(remote.parent)
    assert list_parts(remote) == [stays]
    s3.files.rm(s3.path(remote.name), recursive=True)
    pull(remote.parent)
    assert list(remote.parent.glob("*")) == [remote.parent / "remote.json"]


def test_lists_of_clips_are_mirrored(remote: Path, s3: Any) -> None:
    for path in (failures_path(remote), lost_path(remote)):
        path.write_text('{"id": "x"}\n')
        upload_file(path)
    s3.forget_copies()
    assert failures_path(only_store(open_mirror(s3.url))).read_text() == '{"id": "x"}\n'
    lost_path(remote).unlink()
    upload_file(lost_path(remote))
    s3.forget_copies()
    root = open_mirror(s3.url)
    assert failures_path(remote).exists()
    assert not lost_path(remote).exists()
    assert root == remote.parent


def test_copies_go_both_ways_and_between_urls(
    remote: Path, local: Path, s3: Any, tmp_path: Path, content: Content
) -> None:
    report = copy_store(remote, tmp_path / "back", silent)
    assert (report.copied, report.present, report.utterances) == (2, 0, 8)
    assert files(report.store) == files(local)
    other = open_mirror(s3.url.replace("/cache", "/other"))
    report = copy_store(remote, other, silent)
    assert (report.copied, report.utterances) == (2, 8)
    assert copy_store(remote, other, silent).present == 2
    assert content(report.store) == content(local)
    with pytest.raises(StoreError, match="the same store"):
        copy_store(remote, remote.parent, silent)


def test_damage_in_the_object_store_is_not_copied(remote: Path, s3: Any, tmp_path: Path) -> None:
    part = list_parts(remote)[1]
    s3.flip(f"{remote.name}/{part.name}/frames/c/0/0")
    with pytest.raises(StoreError, match=rf"{s3.url}/\S+: damaged: .*repair {s3.url}` first"):
        copy_store(remote, tmp_path / "back", silent)


def test_verify_reads_the_object_store(remote: Path, s3: Any, content: Content) -> None:
    content(remote)  # whole frames are here
    assert check_store(remote, silent).is_intact
    part = list_parts(remote)[0]
    s3.flip(f"{remote.name}/{part.name}/frames/c/0/0")
    s3.flip(f"{remote.name}/{part.name}/frames/zarr.json")
    check = check_store(remote, silent)
    found = check.parts[0]
    assert (found.path, found.lost, check.parts[1].problems) == (part, ["clip/00"], [])
    assert any(f"{s3.url}/{remote.name}/{part.name}/frames/zarr.json" in p for p in found.problems)
    assert not list((remote.parent / ".writing").glob("*"))


def test_repair_prune_and_compact_change_the_object_store(
    remote: Path, local: Path, s3: Any, content: Content
) -> None:
    expected = content(local)
    s3.flip(f"{remote.name}/{list_parts(remote)[0].name}/frames/c/0/0")  # superseded frames
    report = repair_store(remote, silent)
    assert (report.rewritten, report.lost) == (1, [])
    assert prune_store(remote, silent).superseded == 0
    assert compact_store(remote, silent).parts_after == 1
    s3.forget_copies()
    again = only_store(open_mirror(s3.url))
    assert content(again) == expected
    assert check_store(again, silent).is_intact
    stored = {name.split("/")[1] for name in s3.names() if "/part-" in name}
    assert stored == {list_parts(again)[0].name}


def test_a_damaged_store_is_restored_in_the_object_store(remote: Path, s3: Any) -> None:
    s3.files.pipe_file(s3.path(f"{remote.name}/zarr.json"), b"{}")
    pull(remote.parent)
    with pytest.raises(StoreError, match=f"repair {s3.url}"):
        FeatureStore(remote)
    repair_store(remote, silent)
    s3.forget_copies()
    assert check_store(only_store(open_mirror(s3.url)), silent).is_intact


def test_equal_buckets_of_two_services_have_two_mirrors(remote: Path, s3: Any) -> None:
    assert Remote(s3.url).endpoint == os.environ["AWS_ENDPOINT_URL"]
    assert mirror_folder(s3.url, os.environ["AWS_ENDPOINT_URL"]) == remote.parent
    assert mirror_folder(s3.url, "https://elsewhere") != remote.parent


def test_other_protocols_work_the_same(
    s3: Any, info: StoreInfo, clips: Clips, tmp_path: Path, content: Content
) -> None:
    other = open_mirror(f"file://{tmp_path}/store")
    with StoreWriter(other, info) as writer:
        writer.add("a", np.zeros(32, np.uint8), clips["clip/00"])
    assert list((tmp_path / "store").glob("*/part-*/zarr.json"))
    s3.forget_copies()
    assert content(only_store(open_mirror(f"file://{tmp_path}/store"))).keys() == {"a"}


def test_a_folder_that_mirrors_another_url(remote: Path, s3: Any) -> None:
    mark = remote.parent / "remote.json"
    mark.write_text(mark.read_text().replace("/cache", "/other"))
    with pytest.raises(
        StoreError, match=r"remote.json: found a mirror of .*/other, expected one of"
    ):
        open_mirror(s3.url)
    mark.write_text('{"format": "rellm-copy", "format_version": 2}')
    with pytest.raises(StoreError, match="not the mark of a mirror, or of a newer version"):
        FeatureStore(remote).frames("clip/00")
