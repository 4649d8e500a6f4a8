"""Writing a store: parts appear complete or not at all, and unstorable frames are an error."""

import errno
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.errors import FrameError, StoreError
from rellm_cache.store import writer as writer_module
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.locks import with_hostname
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.shard_writer import ShardWriter
from rellm_cache.store.writer import MAX_PENDING_CLIPS, StoreWriter, to_float16
from rellm_cache.utils.atomic_files import sync_tree
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]
DIGEST = np.arange(32, dtype=np.uint8)


def test_added_clips_are_read_back(tmp_path: Path, info: StoreInfo, clips: Clips) -> None:
    vads = np.random.default_rng(2).uniform(size=(len(clips), 3)).astype(np.float32)
    with StoreWriter(tmp_path, info) as writer:
        for vad, (key, frames) in zip(vads, clips.items(), strict=True):
            writer.add(key, DIGEST, frames, vad)
    store = FeatureStore(writer.path)
    assert store.path.name == f"prosody-{info.spec.fingerprint[:12]}"
    assert (store.spec, store.frame_size, store.licence) == (info.spec, 8, "test licence")
    assert set(store.ids) == set(clips)
    for vad, (key, frames) in zip(vads, clips.items(), strict=True):
        np.testing.assert_array_equal(store.verified_frames(key), frames)
        np.testing.assert_array_equal(store.vad(key), vad)
        assert store.length(key) == len(frames)
        assert store.audio_sha256(key) == DIGEST.tobytes()
    assert not (tmp_path / ".writing").exists()


def test_nothing_is_visible_before_the_commit(tmp_path: Path, info: StoreInfo) -> None:
    with StoreWriter(tmp_path, info) as writer:
        writer.add("a", DIGEST, np.ones((5, 8)))
        assert len(FeatureStore(writer.path)) == 0
        writer.commit()
        assert "a" in FeatureStore(writer.path)
    assert len(list_parts(writer.path)) == 1  # nothing was open: no second part


def test_a_large_part_is_committed_while_clips_are_added(
    tmp_path: Path, info: StoreInfo, clips: Clips
) -> None:
    with StoreWriter(tmp_path, info, part_bytes=8 * 1024) as writer:
        for key, frames in clips.items():
            writer.add(key, DIGEST, frames)
        assert len(FeatureStore(writer.path)) > 0
    store = FeatureStore(writer.path)
    assert len(store.parts) > 2
    assert set(store.ids) == set(clips)


def test_two_writers_fill_one_store(tmp_path: Path, info: StoreInfo) -> None:
    with StoreWriter(tmp_path, info) as one, StoreWriter(tmp_path, info) as two:
        one.add("a", DIGEST, np.ones((5, 8)))
        two.add("b", DIGEST, np.ones((6, 8)))
    assert set(FeatureStore(one.path).ids) == {"a", "b"}


def test_an_id_added_twice_is_in_two_parts(tmp_path: Path, info: StoreInfo) -> None:
    """A part has an id only once; the newest part wins."""
    with StoreWriter(tmp_path, info) as writer:
        writer.add("a", DIGEST, np.ones((5, 8)))
        writer.add("b", DIGEST, np.ones((5, 8)))
        writer.add("a", DIGEST, np.zeros((6, 8)))
    store = FeatureStore(writer.path)
    assert [part.ids for part in store.parts] == [["a", "b"], ["a"]]
    assert store.length("a") == 6
    assert check_store(writer.path, silent).is_intact


def test_an_interrupt_keeps_encoded_clips(tmp_path: Path, info: StoreInfo) -> None:
    writer = StoreWriter(tmp_path, info)

    def work() -> None:
        with writer:
            writer.add("a", DIGEST, np.ones((5, 8)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "a" in FeatureStore(writer.path)


def test_a_full_disk_keeps_earlier_parts(
    tmp_path: Path, info: StoreInfo, write: Write, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"early": clips["clip/03"]})

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with monkeypatch.context() as disk:
        disk.setattr(writer_module, "sync_tree", full)
        message = r"could not write a part of 12 clips .*No space left on device; free some space"
        with pytest.raises(StoreError, match=message):
            write(clips)
    store = FeatureStore(tmp_path / next(p.name for p in tmp_path.glob("prosody-*")))
    assert set(store.ids) == {"early"}
    assert not (tmp_path / ".writing").exists()
    assert set(write(clips).ids) == {"early", *clips}


def test_a_disk_that_fills_while_a_part_grows(
    tmp_path: Path, info: StoreInfo, write: Write, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing thread finds it, the caller gets the error, and no files are left."""
    write({"early": clips["clip/03"]})
    writer = StoreWriter(tmp_path, info)

    def full(shards: ShardWriter, clip: np.ndarray) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def add_all() -> None:
        with writer:
            for _ in range(2 * MAX_PENDING_CLIPS):
                for key, frames in clips.items():
                    writer.add(key, DIGEST, frames)

    with monkeypatch.context() as disk:
        disk.setattr(ShardWriter, "write", full)
        with pytest.raises(
            StoreError, match=r"could not write a part of .*No space left on device"
        ):
            add_all()
    assert set(FeatureStore(writer.path).ids) == {"early"}
    assert not (tmp_path / ".writing").exists()


@pytest.fixture
def small_files() -> Iterator[None]:
    """A limit of 64 KB for files: writing fails, and so does closing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_be_written_or_closed(tmp_path: Path, info: StoreInfo) -> None:
    writer = StoreWriter(tmp_path, info)

    def add_all() -> None:
        with writer:
            for number in range(40):
                writer.add(f"a/{number}", DIGEST, np.ones((250, 8)))  # 4 kB each

    with pytest.raises(StoreError, match=r"could not write a part of \d+ clips .*File too large"):
        add_all()
    assert not list_parts(writer.path)
    assert not (tmp_path / ".writing").exists()


def test_an_error_elsewhere_keeps_encoded_clips(tmp_path: Path, info: StoreInfo) -> None:
    writer = StoreWriter(tmp_path, info)

    def work() -> None:
        with writer:
            writer.add("a", DIGEST, np.ones((5, 8)))
            raise StoreError("another store could not be written")

    with pytest.raises(StoreError, match="another store"):
        work()
    assert "a" in FeatureStore(writer.path)


def test_an_open_part_that_was_removed_is_not_committed(tmp_path: Path, info: StoreInfo) -> None:
    """Its first shards are gone, so frames would be missing."""
    writer = StoreWriter(tmp_path, replace(info, shard_bytes=256 * 16))  # 256 frames in a shard

    def work() -> None:
        with writer:
            writer.add("a", DIGEST, np.ones((256, 8)))
            writer.add("b", DIGEST, np.ones((1, 8)))
            while not (second := list((tmp_path / ".writing").glob("*/frames/c/1/0"))):
                time.sleep(0.001)
            shutil.rmtree(second[0].parents[3])
            for number in range(3):
                writer.add(f"c/{number}", DIGEST, np.ones((256, 8)))

    with pytest.raises(StoreError, match=r"could not write a part of .*No such file"):
        work()
    assert not list_parts(writer.path)
    assert not (tmp_path / ".writing").exists()


def test_a_writer_removes_parts_of_dead_writers(tmp_path: Path, info: StoreInfo) -> None:
    left = tmp_path / ".writing" / with_hostname("store-1f2e3d4c")
    left.mkdir(parents=True)
    with StoreWriter(tmp_path, info):
        assert not left.exists()


def test_an_interrupt_while_a_part_is_committed_loses_nothing(
    tmp_path: Path, info: StoreInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt reaches the waiting thread, while another thread commits."""
    started = threading.Event()

    def slow(folder: Path) -> None:
        started.set()
        time.sleep(0.2)
        sync_tree(folder)

    def interrupt() -> None:
        started.wait()
        signal.raise_signal(signal.SIGINT)

    def work() -> None:
        with StoreWriter(tmp_path, info) as writer:
            writer.add("a", DIGEST, np.ones((5, 8)))
            threading.Thread(target=interrupt).start()
            writer.commit()

    monkeypatch.setattr(writer_module, "sync_tree", slow)
    with pytest.raises(KeyboardInterrupt):
        work()
    (store,) = tmp_path.glob("prosody-*")
    assert set(FeatureStore(store).ids) == {"a"}
    assert not (tmp_path / ".writing").exists()


def test_a_part_grows_on_the_disk(tmp_path: Path, info: StoreInfo, clips: Clips) -> None:
    """Frames are on disk before the commit, so a large part needs no memory."""
    with StoreWriter(tmp_path, info) as writer:
        for key, frames in clips.items():
            writer.add(key, DIGEST, np.repeat(frames, 400, axis=0))
        written = sum(f.stat().st_size for f in (tmp_path / ".writing").rglob("c/*/0"))
        assert written > 0
        assert len(FeatureStore(writer.path)) == 0
    assert check_store(writer.path, silent).is_intact


def test_a_disk_that_is_full_from_the_start(
    info: StoreInfo, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module.zarr, "create_group", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write({})


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (
            np.full((3, 8), 70_000.0),
            "a/1: a frame has the value 70000, the largest float16 is 65504",
        ),
        (np.full((3, 8), np.nan), "a/1: frames are not finite; the encoder failed on this clip"),
        (np.full((3, 8), -np.inf), "a/1: frames are not finite"),
        (np.zeros((3, 7)), r"a/1: frames have shape \(3, 7\), expected \(L, 8\), L > 0"),
        (np.zeros((0, 8)), r"a/1: frames have shape \(0, 8\)"),
        (np.zeros(8), r"a/1: frames have shape \(8,\)"),
    ],
)
def test_the_error_of_unstorable_frames_names_the_clip(frames: np.ndarray, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        to_float16(frames, "a/1", (8,))


def test_the_largest_float16_is_stored() -> None:
    frames = np.full((1, 8), 65_504.0, np.float32)
    np.testing.assert_array_equal(to_float16(frames, "a/1", (8,)), frames)
