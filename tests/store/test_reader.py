"""Reading a store: equal values in every way of reading, and an error for missing bytes."""

import multiprocessing
import operator
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr

from rellm_cache.errors import StoreError
from rellm_cache.store import part as part_reader
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.shard_reader import MappedShards
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]
SPANNING = "clip/11"


@pytest.fixture
def sharded(write: Write, clips: Clips) -> FeatureStore:
    """A store with 512 frames in a shard file, so that clips span two and three files."""
    return write(clips, shard_bytes=512 * 8 * 2)


def shard(store: FeatureStore, number: int = 0) -> Path:
    return store.parts[0].path / f"frames/c/{number}/0"


def reopened(store: FeatureStore) -> FeatureStore:
    return FeatureStore(store.path)


def test_a_view_is_zero_copy_and_read_only(write: Write, clips: Clips) -> None:
    store = write(clips)
    frames = store.frames("clip/05")
    base = frames
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    assert np.shares_memory(frames, store.frames("clip/05"))
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_an_utterance_in_several_shards_is_complete(sharded: FeatureStore, clips: Clips) -> None:
    assert len(list((sharded.parts[0].path / "frames/c").iterdir())) == 9
    for key, frames in clips.items():
        np.testing.assert_array_equal(sharded.verified_frames(key), frames)


def test_plain_zarr_reads_equal_values(sharded: FeatureStore, clips: Clips) -> None:
    group = zarr.open_group(str(sharded.path), mode="r")
    assert group.attrs["rellm"]["fingerprint"] == sharded.spec.fingerprint
    part = zarr.open_group(str(sharded.parts[0].path), mode="r")
    np.testing.assert_array_equal(part["frames"][:], np.concatenate(list(clips.values())))
    assert part["offsets"][:].tolist() == [0, *np.cumsum([len(f) for f in clips.values()])]


def test_a_compressed_part_reads_the_same_through_zarr(
    write: Write, clips: Clips, compress: Callable[[FeatureStore], None]
) -> None:
    store = write(clips)
    compress(store)
    store = reopened(store)
    for key, frames in clips.items():
        np.testing.assert_array_equal(store.frames(key), frames)
    next((store.parts[0].path / "frames/c").glob("0/*")).unlink()  # zarr reads zeros there
    with pytest.raises(StoreError, match="frames of 'clip/00' do not match their checksum"):
        store.frames("clip/00")


def test_silent_frames_survive(write: Write) -> None:
    clips = {
        "silence": np.zeros((1000, 8), np.float16),
        "sound": np.ones((10, 8), np.float16),
        "end": np.zeros((900, 8), np.float16),
    }
    store = write(clips)
    for key, frames in clips.items():
        np.testing.assert_array_equal(store.verified_frames(key), frames)


def test_the_newest_part_wins(write: Write) -> None:
    frames = [np.full((5 + version, 8), version, np.float16) for version in range(8)]
    write({"a": frames[0], "b": frames[0]}, digest=0)
    for version in range(1, 8):
        store = write({"a": frames[version]}, digest=version)
    np.testing.assert_array_equal(store.frames("a"), frames[-1])
    np.testing.assert_array_equal(store.frames("b"), frames[0])
    assert store.audio_sha256("a") == bytes([7] * 32)
    assert (len(store), len(store.parts)) == (2, 8)


def test_a_store_pickles_and_reopens_in_a_spawned_process(write: Write, clips: Clips) -> None:
    store = write(clips)
    store.frames("clip/03")  # something is mapped by now
    assert len(pickle.dumps(store)) < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        frames = pool.apply(operator.methodcaller("frames", "clip/03"), (store,))
    np.testing.assert_array_equal(frames, clips["clip/03"])


def test_a_missing_shard_is_an_error_never_zeros(sharded: FeatureStore) -> None:
    shard(sharded, 8).unlink()
    with pytest.raises(StoreError, match=r"part-000001-\w+: damaged: .*8/0 cannot be mapped"):
        reopened(sharded).frames(SPANNING)
    np.testing.assert_array_equal(reopened(sharded).frames("clip/00"), sharded.frames("clip/00"))


@pytest.mark.parametrize("kept", [0, 100, 8 * 1024])
def test_a_truncated_shard_is_an_error(sharded: FeatureStore, kept: int) -> None:
    data = shard(sharded).read_bytes()
    shard(sharded).write_bytes(data[:kept])
    with pytest.raises(StoreError, match=r"0/0 (has \d+ bytes, expected 8228|cannot be mapped)"):
        reopened(sharded).frames("clip/00")


def test_a_flipped_bit_in_an_index_is_an_error(sharded: FeatureStore) -> None:
    data = bytearray(shard(sharded).read_bytes())
    data[-10] ^= 1
    shard(sharded).write_bytes(data)
    with pytest.raises(
        StoreError, match="0/0: the checksum of its index is wrong; `rellm cache repair"
    ):
        reopened(sharded).frames("clip/00")


def test_an_index_that_misses_a_chunk_is_an_error(write: Write) -> None:
    store = write({"a": np.ones((600, 8), np.float16)})
    array = zarr.open_array(str(store.parts[0].path / "frames"), mode="r+")
    array[256:512] = 0  # zarr drops a chunk of zeros unless told not to
    with pytest.raises(StoreError, match=r"(has \d+ bytes|misses chunks)"):
        reopened(store).frames("a")


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_a_flipped_bit_in_a_frame_is_found_when_first_read(write: Write, clips: Clips) -> None:
    store = write(clips)
    data = bytearray(shard(store).read_bytes())
    data[3] ^= 1
    shard(store).write_bytes(data)
    store = reopened(store)
    for _ in range(2):
        with pytest.raises(
            StoreError,
            match=r"part-000001-\w+: damaged: frames of 'clip/00' .* `rellm cache repair .*`",
        ):
            store.frames("clip/00")
    np.testing.assert_array_equal(store.frames("clip/01"), reopened(store).frames("clip/01"))


def test_frames_are_checked_once_and_again_after_closing(
    write: Write, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    ordinary = part_reader.frames_crc32c

    def counting(frames: np.ndarray) -> int:
        checked.append(len(frames))
        return ordinary(frames)

    monkeypatch.setattr(part_reader, "frames_crc32c", counting)
    store = write(clips)
    for _ in range(3):
        for key in clips:
            store.frames(key)
    assert checked == [len(frames) for frames in clips.values()]
    store.verified_frames("clip/00")  # always
    store.close()
    store.frames("clip/01")
    assert checked[len(clips) :] == [len(clips["clip/00"]), len(clips["clip/01"])]


@pytest.mark.parametrize(("where", "name"), [(google_crc32c, "value"), (zarr.Array, "__getitem__")])
def test_a_memory_error_is_not_damage(
    write: Write,
    clips: Clips,
    compress: Callable[[FeatureStore], None],
    monkeypatch: pytest.MonkeyPatch,
    where: Any,
    name: str,
) -> None:
    def fail(*arguments: Any) -> None:
        raise MemoryError

    store = write(clips)
    compress(store)
    monkeypatch.setattr(where, name, fail)
    with pytest.raises(MemoryError):
        reopened(store).frames("clip/00")


@pytest.mark.parametrize("column", ["ids", "id_offsets"])
@pytest.mark.parametrize("missing", ["zarr.json", "c", "c/0"])
def test_a_missing_column_is_an_error(write: Write, column: str, missing: str) -> None:
    store = write({"a": np.ones((5, 8))})
    path = store.parts[0].path / column / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(StoreError, match=f"damaged: column '{column}' cannot be read"):
        reopened(store)


@pytest.mark.parametrize("column", ["offsets", "audio_sha256", "frames_crc32c"])
def test_a_truncated_column_is_an_error(write: Write, column: str) -> None:
    store = write({"a": np.ones((5, 8))})
    chunk = next(p for p in (store.parts[0].path / column / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(StoreError, match=f"column '{column}' cannot be read"):
        getattr(reopened(store).parts[0], column)


@pytest.mark.parametrize("column", ["frames_crc32c", "audio_sha256"])
def test_a_column_of_another_part_is_an_error(write: Write, clips: Clips, column: str) -> None:
    whole, few = write(clips), write({"another": clips["clip/00"]})
    part, other = few.parts
    shutil.rmtree(part.path / column)
    shutil.copytree(other.path / column, part.path / column)
    message = rf"{part.path}: .*column '{column}' has 1 rows for {len(clips)} utterances"
    with pytest.raises(StoreError, match=message):
        operator.attrgetter(column)(reopened(whole).parts[0])


def test_frames_without_their_metadata_are_an_error(write: Write) -> None:
    store = write({"a": np.ones((5, 8))})
    (store.parts[0].path / "frames/zarr.json").unlink()
    with pytest.raises(StoreError, match="damaged: metadata of frames cannot be read"):
        reopened(store).frames("a")


def test_the_error_of_an_absent_clip_names_the_command(write: Write) -> None:
    store = write({"a": np.ones((5, 8))})
    with pytest.raises(StoreError, match="no clip 'b'; add it with `rellm extract`"):
        store.frames("b")
    with pytest.raises(
        StoreError, match=r"2 of 3 clips are absent .* first is 'b'; .*`rellm ext x`"
    ):
        store.require(["a", "b", "c"], "rellm ext x")
    store.require(["a"], "rellm ext x")
    assert store.vad("a") is None


def test_lengths_of_many_clips(write: Write, clips: Clips) -> None:
    write(clips)
    store = write({"clip/03": np.ones((7, 8))}, digest=1)
    wanted = ["clip/05", "clip/03", "clip/05"]
    assert store.lengths(wanted).tolist() == [340, 7, 340]
    assert [store.length(i) for i in wanted] == [340, 7, 340]
    assert store.lengths([]).tolist() == []
    with pytest.raises(StoreError, match="no clip 'x'; add it"):
        store.lengths(["clip/03", "x", "y"])


def test_a_shard_is_checked_once(
    sharded: FeatureStore, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    ordinary = MappedShards.map

    def counting(self: MappedShards, shard: int) -> np.ndarray:
        checked.append(shard)
        return ordinary(self, shard)

    monkeypatch.setattr(MappedShards, "map", counting)
    for _ in range(3):
        for key in clips:
            sharded.frames(key)
    assert sorted(checked) == list(range(9))
    sharded.close()
    np.testing.assert_array_equal(sharded.frames(SPANNING), clips[SPANNING])
    assert len(checked) > 9


MANY_SHARDS = """
import resource, sys
from pathlib import Path
from rellm_cache.store.reader import FeatureStore
path, limit = Path(sys.argv[1]), int(sys.argv[2])
FeatureStore(path)  # imports everything first
resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 64), limit))
store = FeatureStore(path, shard_bytes=256 * 8 * 2)
print(sum(len(store.frames(key)) for key in store.ids))
"""


@pytest.mark.parametrize(("limit", "said"), [(4096, "25600"), (64, "allow more open files")])
def test_more_shards_than_open_files_are_allowed(write: Write, limit: int, said: str) -> None:
    clips = {f"clip/{i:03d}": np.ones((256, 8), np.float16) for i in range(100)}
    store = write(clips, shard_bytes=256 * 8 * 2)
    done = subprocess.run(
        [sys.executable, "-c", MANY_SHARDS, str(store.path), str(limit)],
        capture_output=True,
        text=True,
    )
    assert said in done.stdout + done.stderr


def test_reading_ahead_changes_no_values(sharded: FeatureStore, clips: Clips) -> None:
    """Whether the system loads them or not."""
    part = sharded.parts[0]
    sharded.frames("clip/00")
    sharded.read_ahead(list(clips))
    sharded.read_ahead([])
    for row in range(len(clips)):
        part.read_ahead(row)
    assert isinstance(part.is_cached(0), bool)
    for key, frames in clips.items():
        np.testing.assert_array_equal(sharded.frames(key), frames)


@pytest.mark.skipif(
    not hasattr(os, "RWF_NOWAIT"), reason="needs preadv2 with RWF_NOWAIT, which Linux has"
)
def test_frames_not_in_the_page_cache_are_announced(
    sharded: FeatureStore, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[tuple[int, int]] = []

    def announce(handle: int, offset: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        announced.append((offset, length))

    monkeypatch.setattr(MappedShards, "is_cached", lambda *_: True)
    monkeypatch.setattr(os, "posix_fadvise", announce)
    sharded.read_ahead(list(clips))
    assert announced == []
    monkeypatch.setattr(MappedShards, "is_cached", lambda *_: False)
    sharded.read_ahead(["clip/00", SPANNING])
    assert announced[0] == (0, 40 * 16)
    assert sum(length for _, length in announced[1:]) == 700 * 16
    assert len(announced) >= 3  # it lies in two or more shards


def test_read_ahead_ignores_shards_that_cannot_be_opened(sharded: FeatureStore) -> None:
    shard(sharded).unlink()
    sharded.read_ahead(["clip/00"])
    with pytest.raises(StoreError, match="0/0 cannot be mapped"):
        sharded.frames("clip/00")


def test_a_store_with_a_removed_part_can_be_closed(write: Write, clips: Clips) -> None:
    """After a fork all stores are closed, also those with parts removed by a merge."""
    store = write(clips)
    shutil.rmtree(store.parts[0].path)
    store.close()
    with pytest.raises(StoreError, match="this part was removed while the store was open"):
        store.frames("clip/00")


def test_the_lookup_table_stays_bounded(write: Write, clips: Clips) -> None:
    """Also if several threads add to it at once, so that it exceeds its limit first."""
    store = write(clips)
    for key in list(clips)[:3]:
        store.frames(key)
    store.max_lookups = 2
    for key in clips:
        store.frames(key)
        assert len(store._views) <= 3
        assert len(store._found) <= 3


@pytest.mark.parametrize("name", ["frames/c/0/0", "frames/zarr.json", "offsets/c/0", "zarr.json"])
def test_a_pipe_in_place_of_a_file_is_damage(
    write: Callable[..., FeatureStore], clips: dict[str, np.ndarray], name: str
) -> None:
    store = write(clips)
    part = store.parts[0].path
    (part / name).unlink()
    os.mkfifo(part / name)
    if name != "zarr.json":  # which only maintenance reads
        with pytest.raises(StoreError, match="damaged"):
            FeatureStore(store.path).frames("clip/00")
    report = check_store(store.path, silent)
    assert not report.is_intact
