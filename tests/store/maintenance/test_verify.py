"""Verify: every flipped bit and lost byte is found, or changes nothing that is read."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.maintenance.verify import StoreCheck, check_store, find_stores
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]


def check(path: Path) -> StoreCheck:
    value_bytes = 1 if "int8" in path.name else 2
    return check_store(path, silent, shard_bytes=256 * 8 * value_bytes)


def problems(path: Path) -> list[str]:
    """All problems of a store, the store's own first."""
    found = check(path)
    return found.problems + [problem for part in found.parts for problem in part.problems]


def content(path: Path) -> dict[str, Any]:
    """Everything a reader gets from a store: values, digests, dimensions and attributes."""
    store = FeatureStore(path)
    clips = {
        key: (
            store.verified_frames(key).tobytes(),
            store.audio_sha256(key),
            None if (vad := store.vad(key)) is None else vad.tobytes(),
        )
        for key in store.ids
    }
    attributes = [dict(zarr.open_group(str(p), mode="r").attrs) for p in (path, *list_parts(path))]
    return {"clips": clips, "attributes": attributes, "arrays": array_metadata(path)}


def array_metadata(path: Path) -> dict[str, Any]:
    return {
        str(file.parent.relative_to(path)): zarr.open_array(
            str(file.parent), mode="r"
        ).metadata.to_dict()
        for file in sorted(path.glob("part-*/*/zarr.json"))
    }


@pytest.fixture
def small(tmp_path: Path, info: StoreInfo, steps: Quantization | None) -> Path:
    """A store of two parts with dimensions and several shards, of about 20 kB."""
    info = replace(info, shard_bytes=256 * info.frame_bytes)
    random = np.random.default_rng(3)
    for part in (["a/1", "b/ü", "c"], ["a/1", "d"]):
        with StoreWriter(
            tmp_path / "cache", info, steps, writers=[{"device": "cpu", "torch": "2"}]
        ) as writer:
            for key in part:
                frames = random.normal(size=(random.integers(50, 400), 8))
                vad = random.uniform(size=3).astype(np.float32)
                digest = random.integers(0, 256, 32).astype(np.uint8)
                writer.add(key, digest, frames, vad)
    return writer.path


def damages(files: list[Path], count: int) -> Iterator[tuple[Path, int, int | None]]:
    """File, position and the bit to flip; None truncates the file at the position.

    Half of them hit a random byte of the store, half a random file, so that small files are hit.
    """
    random = np.random.default_rng(7)
    sizes = np.array([file.stat().st_size for file in files])
    for number in range(count):
        by_size = sizes / sizes.sum() if number % 2 else None
        index = int(random.choice(len(files), p=by_size))
        position = int(random.integers(sizes[index]))
        yield files[index], position, None if number % 6 == 0 else int(random.integers(8))


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_300_flipped_bits_and_truncations_are_found_or_harmless(small: Path) -> None:
    assert problems(small) == []
    before = content(small)
    files = sorted(file for file in small.rglob("*") if file.is_file())
    for file, position, bit in damages(files, 300):
        data = file.read_bytes()
        changed = bytearray(data)
        if bit is None:
            del changed[position:]
        else:
            changed[position] ^= 1 << bit
        file.write_bytes(changed)
        if not problems(small):
            assert content(small) == before, f"{file}, byte {position}, bit {bit} is not found"
        file.write_bytes(data)
    assert problems(small) == []


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_every_byte_of_metadata_is_checked(small: Path) -> None:
    """Flip one bit in many bytes of each kind of document."""
    part = list_parts(small)[0]
    before = content(small)
    for file in (small / "zarr.json", part / "zarr.json", part / "frames/zarr.json"):
        data = file.read_bytes()
        for position in range(0, len(data), 29):
            changed = bytearray(data)
            changed[position] ^= 1 << position % 7
            file.write_bytes(changed)
            assert problems(small) or content(small) == before, f"{file}, byte {position}"
        file.write_bytes(data)


def test_a_problem_names_part_and_utterances(sharded_clip: Path) -> None:
    (part,) = check(sharded_clip).parts
    assert part.lost == ["clip/00"]
    assert part.problems == ["frames of 1 of 12 utterances do not match their checksum"]
    assert part.path.name.startswith("part-000001-")


@pytest.fixture
def sharded_clip(write: Write, clips: Clips) -> Path:
    """A store whose first clip has a flipped bit."""
    store = write(clips)
    flip(store.parts[0].path / "frames/c/0/0", 3)
    return store.path


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_unknown_files_are_named_and_are_no_damage(small: Path) -> None:
    part = list_parts(small)[0]
    unknown = [small / "lost+found", small / "readme.md", part / "frames/c/9", part / "notes.txt"]
    unknown[0].mkdir()
    for file in unknown[1:]:
        file.write_text("hello")
    assert check(small).all_unknown == unknown
    assert check(small).is_intact


def test_missing_files_are_found(small: Path) -> None:
    shutil.rmtree(list_parts(small)[0] / "vad")
    assert any("its attributes name arrays" in p for p in problems(small))


def test_a_part_of_another_store_is_found(
    small: Path, tmp_path: Path, info: StoreInfo, clips: Clips
) -> None:
    other = StoreInfo(info.spec, info.frame_size, "another licence")
    with StoreWriter(tmp_path / "other", other) as writer:
        writer.add("x", np.zeros(32, np.uint8), clips["clip/01"])
    (part,) = list_parts(writer.path)
    part.rename(small / "part-000009-00000000")
    assert problems(small) == ["it belongs to another store"]


def test_columns_of_different_parts_are_found(small: Path) -> None:
    first, second = list_parts(small)
    shutil.rmtree(second / "audio_sha256")
    shutil.copytree(first / "audio_sha256", second / "audio_sha256")
    assert problems(small) == ["audio_sha256 has 3 utterances, offsets has 2"]


@pytest.mark.parametrize("zeroed", ["zarr.json", "ids/c/0", "frames/c/0/0", "offsets/zarr.json"])
def test_a_file_of_zeros_is_found(small: Path, zeroed: str) -> None:
    file = list_parts(small)[1] / zeroed
    file.write_bytes(bytes(file.stat().st_size))
    assert problems(small)


def test_an_early_store_without_checksums_is_intact(small: Path) -> None:
    """Attributes of the first version: without checksum, writers and arrays."""
    for path in (small, *list_parts(small)):
        document = json.loads((path / "zarr.json").read_text())
        own = document["attributes"]["rellm"]
        for key in ("checksum", "writers", "arrays", "store"):
            own.pop(key, None)
        (path / "zarr.json").write_text(json.dumps(document))
    assert problems(small) == []
    assert len(FeatureStore(small)) == 4


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_frames_compressed_by_another_program_are_intact(
    write: Write, clips: Clips, compress: Callable[[FeatureStore], None]
) -> None:
    store = write(clips)
    compress(store)
    assert problems(store.path) == []
    chunk = store.parts[0].path / "frames/c/3/0"
    flip(chunk, chunk.stat().st_size - 1)
    assert len(check(store.path).parts[0].lost) > 0


@pytest.mark.parametrize("info", ["float16", "int8"], indirect=True)
def test_padding_that_is_not_zeros_is_found(write: Write, clips: Clips, info: StoreInfo) -> None:
    store = write({"a": clips["clip/00"]})
    flip(
        store.parts[0].path / "frames/c/0/0", 255 * info.frame_bytes
    )  # clip/00 has 40 frames, a chunk 256
    (found,) = problems(store.path)
    assert "frames beyond the last are not zeros" in found


@pytest.mark.parametrize("info", ["int8"], indirect=True)
def test_every_part_has_the_same_int8_scale(
    small: Path, write_other_scale: Callable[[Path], Path]
) -> None:
    first, second = list_parts(small)
    (second / "scale/c/0").unlink()
    (found,) = problems(small)
    assert "column 'scale' cannot be read" in found
    shutil.rmtree(second)
    write_other_scale(small.parent)
    (found,) = problems(small)
    assert f"its int8 scale and mean differ from those of {first.name}" in found


def test_stores_are_found_without_their_metadata(small: Path, tmp_path: Path) -> None:
    (small / "zarr.json").unlink()
    assert find_stores(tmp_path / "cache") == [small]
    assert check(small).info is not None  # a part carries it
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="found no store"):
        find_stores(tmp_path / "empty")


def test_a_memory_error_is_not_damage(
    write: Write,
    clips: Clips,
    compress: Callable[[FeatureStore], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(array: Any, selection: Any) -> None:
        raise MemoryError

    store = write(clips)
    compress(store)
    monkeypatch.setattr(zarr.Array, "__getitem__", fail)
    with pytest.raises(MemoryError):
        check(store.path)
