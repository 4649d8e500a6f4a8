"""Download of frames: once, when first mapped, within a size limit; damage is found."""

import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.download import open_shard
from rellm_cache.store.remote.mirror import open_mirror, pull
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]
SHARD = 256 * 8 * 2 + 16 + 4  # bytes of a shard of one chunk, index and checksum


@pytest.fixture
def remote(s3: Any, info: StoreInfo, clips: Clips) -> Path:
    """Four parts of one clip and one shard each, with no frames downloaded."""
    with StoreWriter(open_mirror(s3.url), info) as writer:
        for index in range(4):
            writer.add(f"clip/{index}", np.zeros(32, np.uint8), clips[f"clip/{index:02d}"])
            writer.commit()
    for part in list_parts(writer.path):
        shutil.rmtree(part / "frames/c")
    s3.requests.lines.clear()
    return writer.path


def shards(store: Path) -> list[int]:
    """Numbers of the parts with downloaded frames."""
    return [i for i, part in enumerate(list_parts(store)) if (part / "frames/c/0/0").exists()]


def bound(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    monkeypatch.setenv("RELLM_COPIES_GB", f"{nbytes / 1e9:.9f}")


READER = """
import sys
from pathlib import Path
from rellm_cache.store.reader import FeatureStore
store = FeatureStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for key in store.ids:
    store.verified_frames(key)
"""


def test_two_processes_download_each_shard_once(remote: Path, s3: Any) -> None:
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, remote], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"ready\n"
    for reader in readers:
        reader.communicate(b"go\n")
        assert reader.returncode == 0
    assert shards(remote) == [0, 1, 2, 3]
    assert len(s3.requests.of_frames()) == 4


def test_the_least_recently_used_file_is_evicted_unless_mapped(
    remote: Path, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound(monkeypatch, 3 * SHARD)
    store, other = FeatureStore(remote), FeatureStore(remote)
    held = store.frames("clip/0")
    other.frames("clip/1")
    other.frames("clip/2")
    other.frames("clip/1")
    other.close()
    FeatureStore(remote).frames("clip/1")  # used last
    store.frames("clip/3")
    assert shards(remote) == [0, 1, 3]
    np.testing.assert_array_equal(held, clips["clip/00"])
    np.testing.assert_array_equal(FeatureStore(remote).frames("clip/2"), clips["clip/02"])
    assert shards(remote) == [0, 2, 3]


def test_files_in_use_are_not_evicted(
    remote: Path, clips: Clips, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound(monkeypatch, 2 * SHARD)
    store = FeatureStore(remote)
    held = [store.frames(f"clip/{i}") for i in range(2)]
    with pytest.raises(
        StoreError, match=rf"{s3.url}: no space .*running processes use .*RELLM_COPIES_GB higher"
    ):
        store.frames("clip/2")
    store.read_ahead(["clip/3"])  # says nothing: the read does
    assert shards(remote) == [0, 1]
    store.close()
    with pytest.raises(StoreError, match="no space"):  # views that were given out count
        store.frames("clip/2")
    np.testing.assert_array_equal(held[1], clips["clip/01"])
    del held
    store.frames("clip/2")
    assert shards(remote) in ([0, 2], [1, 2])


def test_a_forked_child_downloads_and_protects_files_too(
    remote: Path, clips: Clips, s3: Any
) -> None:
    store = FeatureStore(remote)
    store.frames("clip/0")
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(store.frames, ("clip/1",)), clips["clip/01"])
    assert shards(remote) == [0, 1]
    assert len(s3.requests.of_frames()) == 2


def test_a_size_limit_that_is_not_a_number(remote: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELLM_COPIES_GB", "lots")
    with pytest.raises(ConfigError, match="RELLM_COPIES_GB: found 'lots', expected a number"):
        FeatureStore(remote).frames("clip/0")


def test_unfinished_downloads_of_a_killed_process_are_removed(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound(monkeypatch, SHARD)
    left = remote.parent / ".writing" / "left"
    left.mkdir(parents=True)
    (left / "reserved").write_bytes(bytes(SHARD))
    FeatureStore(remote).frames("clip/0")
    assert shards(remote) == [0]
    assert not (remote.parent / ".writing").exists()


def test_read_ahead_downloads(remote: Path, s3: Any) -> None:
    store = FeatureStore(remote)
    store.read_ahead(["clip/2"])
    assert shards(remote) == [2]
    store.frames("clip/2")
    assert len(s3.requests.of_frames()) == 1


def test_damaged_frames_are_found_and_named(remote: Path, s3: Any) -> None:
    frames, index, size = list_parts(remote)[:3]
    s3.flip(f"{remote.name}/{frames.name}/frames/c/0/0")
    s3.flip(f"{remote.name}/{index.name}/frames/c/0/0", byte=-5)
    cut = s3.path(f"{remote.name}/{size.name}/frames/c/0/0")
    s3.files.pipe_file(cut, s3.files.cat_file(cut)[:100])
    store = FeatureStore(remote)
    there = f"{s3.url}/{remote.name}/"
    with pytest.raises(StoreError, match=f"{there}{frames.name}: damaged: frames of 'clip/0' do"):
        store.frames("clip/0")
    with pytest.raises(StoreError, match=f"{there}{index.name}: damaged: .*index is wrong"):
        store.frames("clip/1")
    with pytest.raises(StoreError, match=f"{size.name}: damaged: .*verify {s3.url}`: if the part"):
        store.frames("clip/2")
    store.frames("clip/3")


def test_frames_missing_in_the_object_store_are_damage(remote: Path, s3: Any) -> None:
    part = list_parts(remote)[0]
    s3.files.rm_file(s3.path(f"{remote.name}/{part.name}/frames/c/0/0"))
    with pytest.raises(StoreError, match=f"{part.name}: damaged: .*cannot be mapped"):
        FeatureStore(remote).frames("clip/0")


def test_a_part_removed_from_the_object_store(remote: Path, s3: Any) -> None:
    store = FeatureStore(remote)
    part = list_parts(remote)[0]
    s3.files.rm(s3.path(f"{remote.name}/{part.name}"), recursive=True)
    with pytest.raises(StoreError, match=f"{part.name}: this part was removed while the store"):
        store.frames("clip/0")


def test_a_failing_object_store_is_not_damage(
    remote: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Remote, *arguments: object) -> None:
        with self._reaching("reading from it"):
            raise ConnectionError("the network is gone")

    monkeypatch.setattr(Remote, "download", fail)
    with pytest.raises(RemoteError, match=rf"{s3.url}: reading .*gone; check the network"):
        FeatureStore(remote).frames("clip/0")
    with pytest.raises(RemoteError, match="the network is gone"):
        check_store(remote, silent)


def test_frames_of_other_codecs_are_downloaded_at_once_and_protected(
    s3: Any,
    write: Write,
    clips: Clips,
    compress: Callable[[FeatureStore], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = write({"a": clips["clip/03"]})
    compress(local)
    write({"b": clips["clip/04"]})
    s3.files.put(str(local.path), s3.path(local.path.name), recursive=True)
    root = open_mirror(s3.url)
    store = FeatureStore(root / local.path.name)
    assert not list(root.glob("*/*/frames/c"))
    np.testing.assert_array_equal(store.frames("a"), clips["clip/03"])
    np.testing.assert_array_equal(store.frames("a")[10:], clips["clip/03"][10:])
    chunks = len(list((store.parts[0].path / "frames/c").rglob("0"))) - 1
    assert len(s3.requests.of_frames()) == chunks
    bound(monkeypatch, 2 * SHARD)
    with pytest.raises(StoreError, match="no space"):
        store.frames("b")
    store.close()
    np.testing.assert_array_equal(store.frames("b"), clips["clip/04"])
    assert check_store(store.path, silent).is_intact


def test_a_plain_folder_needs_no_object_store(write: Write, clips: Clips, s3: Any) -> None:
    store = write(clips)
    pull(store.path.parent)
    open_shard(store.parts[0].path / "frames/c/0/0").close()
    (store.parts[0].path / "frames/c/0/0").unlink()
    with pytest.raises(StoreError, match="cannot be mapped"):
        store.frames("clip/00")
    assert s3.requests.lines == []
