"""Shards: equal to those of zarr, byte for byte."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

from rellm_cache.store import shard_writer as shard_writer_module
from rellm_cache.store.format import INNER_FRAMES, StoreInfo
from rellm_cache.store.part_writer import Row, write_part
from rellm_cache.store.shard_writer import ShardWriter

SIZE = 8


@pytest.mark.parametrize("lengths", [[1], [256], [100, 412], [40, 700, 3, 900], [512, 512], [1025]])
def test_files_equal_those_of_zarr(tmp_path: Path, info: StoreInfo, lengths: list[int]) -> None:
    random = np.random.default_rng(1)
    clips = [random.normal(size=(n, SIZE)).astype(np.float16) for n in lengths]
    clips[-1][:] = 0  # zarr would leave chunks of zeros out
    rows = [Row(str(i), np.zeros(32, np.uint8), clip) for i, clip in enumerate(clips)]
    write_part(tmp_path / "direct", rows, replace(info, shard_bytes=512 * SIZE * 2))
    frames = np.concatenate(clips)
    shard = min(512, -(-len(frames) // INNER_FRAMES) * INNER_FRAMES)
    array = zarr.create_array(
        str(tmp_path / "zarr/frames"),
        shape=frames.shape,
        dtype="float16",
        chunks=(INNER_FRAMES, SIZE),
        shards=(shard, SIZE),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )
    array[:] = frames
    written = sorted(p for p in (tmp_path / "zarr/frames").rglob("*") if p.is_file())
    for file in written:
        direct = tmp_path / "direct" / file.relative_to(tmp_path / "zarr")
        assert direct.read_bytes() == file.read_bytes(), file.name
    assert len(written) == sum(p.is_file() for p in (tmp_path / "direct/frames").rglob("*"))


def test_a_clip_has_the_checksum_of_its_bytes(tmp_path: Path) -> None:
    with closing(ShardWriter(tmp_path / "c", 2, 64)) as writer:
        assert writer.write(np.full(300, 97, np.uint8)) == google_crc32c.value(b"a" * 300)
        assert writer.write(np.zeros(0, np.uint8)) == 0
        writer.finish()
    assert [p.name for p in sorted((tmp_path / "c").iterdir())] == ["0", "1", "2"]


def test_after_an_error_no_shard_is_completed(tmp_path: Path) -> None:
    def stop_after_frames() -> None:
        with closing(ShardWriter(tmp_path / "c", 4, 64)) as writer:
            writer.write(np.zeros(10, np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_after_frames()
    assert (tmp_path / "c/0/0").stat().st_size == 10


def test_a_disk_error_of_an_earlier_shard_is_raised_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(shard_writer_module, "sync_path", fail)
    with closing(ShardWriter(tmp_path / "c", 1, 64)) as writer:
        writer.write(np.zeros(100, np.uint8))
        with pytest.raises(OSError, match=r"Input/output error.*c/0/0"):
            writer.finish()
