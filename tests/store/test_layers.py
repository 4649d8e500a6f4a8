"""Stores of several layers: each layer is read alone, as from a store of its own."""

import copy
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import FrameError, StoreError
from rellm_cache.store.format import StoreInfo, list_parts, read_info
from rellm_cache.store.maintenance.compact import compact_store, prune_store
from rellm_cache.store.maintenance.copy import copy_store
from rellm_cache.store.maintenance.hdf5 import export_store, import_store
from rellm_cache.store.maintenance.repair import repair_store
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.mapping import Store
from rellm_cache.store.matching import find_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.console import silent

LAYERS = (0, 2, -1)
FRAME_SIZE = 8
WEIGHTS = "a" * 64
SPEC = EncoderSpec(kind="whisper", model="m", weights_sha256=WEIGHTS, layers=LAYERS, blocks=4)
INFO = StoreInfo(SPEC, FRAME_SIZE, "test licence")
Clips = dict[str, np.ndarray]


@pytest.fixture
def clips() -> Clips:
    """Six clips of 40 to 340 frames, (L, 3, 8) float16."""
    random = np.random.default_rng(1)
    return {
        f"clip/{index}": random.normal(size=(40 + 60 * index, 3, FRAME_SIZE)).astype(np.float16)
        for index in range(6)
    }


def write(cache: Path, clips: Clips, info: StoreInfo = INFO, digest: int = 0) -> FeatureStore:
    """Add one part to the store of `info`."""
    with StoreWriter(cache, info) as writer:
        for key, frames in clips.items():
            writer.add(key, np.full(32, digest, np.uint8), frames)
    return FeatureStore(writer.path)


def write_layer(cache: Path, clips: Clips, layer: int) -> FeatureStore:
    """Add one part to the store of one layer."""
    place = LAYERS.index(layer)
    info = replace(INFO, spec=SPEC.with_layers((layer,)))
    return write(cache, {key: frames[:, place] for key, frames in clips.items()}, info)


def layer_files(store: FeatureStore, place: int) -> list[Path]:
    """The shard files of one layer, the layers counted from 0."""
    return [f for part in store.parts for f in (part.path / f"frames/c/{place}").rglob("*/0")]


def damage(file: Path, byte: int = 100) -> None:
    """Flip a bit of a file."""
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)


def equal(store: FeatureStore, clips: Clips) -> bool:
    """Whether a store has these clips and no others."""
    same = all(np.array_equal(store.verified_frames(key), clips[key]) for key in clips)
    return same and set(store.ids) == set(clips)


def test_frames_are_read_together_and_by_layer(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    assert (store.spec, store.frame_size, store.frame_shape) == (SPEC, 8, (3, 8))
    assert equal(store, clips)
    for place, layer in enumerate(LAYERS):
        one = store.select((layer,))
        assert (one.spec, one.frame_shape) == (SPEC.with_layers((layer,)), (8,))
        assert equal(one, {key: frames[:, place] for key, frames in clips.items()})
    two = store.select((2, -1))
    assert equal(two, {key: frames[:, 1:] for key, frames in clips.items()})
    assert store.select(None).spec == SPEC
    assert [np.array_equal(f, clips["clip/3"][:, 1]) for f in store.layer_frames("clip/3")] == [
        False, True, False,
    ]  # fmt: skip


def test_one_layer_has_the_bytes_and_the_spec_of_its_own_store(
    tmp_path: Path, clips: Clips
) -> None:
    many = write(tmp_path / "many", clips)
    for place, layer in enumerate(LAYERS):
        alone = write_layer(tmp_path / "alone", clips, layer)
        assert many.select((layer,)).spec == alone.spec
        assert many.select((layer,)).spec.fingerprint == alone.spec.fingerprint
        (one,), (other,) = (layer_files(many, place), [alone.parts[0].path / "frames/c/0/0"])
        assert one.read_bytes() == other.read_bytes()


def test_one_layer_is_a_view_of_its_file_and_reads_no_other(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    for place in (0, 2):
        shutil.rmtree(layer_files(store, place)[0].parents[1])
    one = FeatureStore(store.path, layers=(2,))
    one.read_ahead(sorted(clips))
    for key, frames in clips.items():
        view = one.frames(key)
        np.testing.assert_array_equal(view, frames[:, 1])
        assert isinstance(view.base, np.ndarray)
        assert not view.flags.writeable
    assert one.frames("clip/1") is one.frames("clip/1")
    with pytest.raises(StoreError, match=r"damaged: .*frames/c/0/0/0 cannot be mapped"):
        store.frames("clip/1")


def test_frames_over_several_shards(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips, replace(INFO, shard_bytes=256 * INFO.frame_bytes))
    assert len(layer_files(store, 1)) == 5
    assert equal(store, clips)
    assert check_store(store.path, silent, 256 * INFO.frame_bytes).is_intact


def test_a_zarr_reader_sees_a_dimension_of_layers(tmp_path: Path, clips: Clips) -> None:
    (part,) = write(tmp_path, clips).parts
    frames = zarr.open_array(str(part.path / "frames"), mode="r")
    assert (frames.shape[0], frames.chunks, frames.shards[0]) == (3, (1, 256, 8), 1)
    expected = np.concatenate([*clips.values()]).swapaxes(0, 1)
    np.testing.assert_array_equal(frames[:], expected)
    np.testing.assert_array_equal(
        zarr.open_array(str(part.path / "frames_crc32c"))[:].shape, (6, 3)
    )


def test_frames_with_other_codecs_are_read_by_layer(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    path = store.parts[0].path / "frames"
    frames = zarr.open_array(str(path), mode="r")[:]
    shutil.rmtree(path)
    zarr.create_array(str(path), data=frames, chunks=(1, 100, 8))
    assert equal(FeatureStore(store.path), clips)
    one = FeatureStore(store.path, layers=(-1,))
    assert equal(one, {key: frames[:, 2] for key, frames in clips.items()})
    assert check_store(store.path, silent).is_intact


def test_a_damaged_layer_stops_its_readers_only(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    damage(layer_files(store, 1)[0])
    assert equal(store.select((-1,)), {key: frames[:, 2] for key, frames in clips.items()})
    with pytest.raises(StoreError, match=r"frames of layer 2 of 'clip/0' do not match"):
        store.select((2,)).frames("clip/0")
    with pytest.raises(StoreError, match=r"frames of layer 2 of 'clip/0' do not match"):
        store.frames("clip/0")
    (part,) = check_store(store.path, silent).parts
    assert part.problems == ["frames of 1 of 6 utterances do not match their checksum; layers 2"]
    assert part.lost == ["clip/0"]


def test_repair_drops_a_clip_with_a_damaged_layer(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    damage(layer_files(store, 2)[0])
    report = repair_store(store.path, silent)
    assert (report.lost, report.kept) == (["clip/0"], 5)
    del clips["clip/0"]
    assert equal(FeatureStore(store.path), clips)
    assert check_store(store.path, silent).is_intact


def test_repair_restores_lost_attributes(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    (store.path / "zarr.json").unlink()
    assert repair_store(store.path, silent).lost == []
    assert read_info(store.path) == INFO
    assert equal(FeatureStore(store.path), clips)


def test_verify_finds_padding_and_missing_files_of_each_layer(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    damage(layer_files(store, 1)[0], sum(map(len, clips.values())) * INFO.frame_bytes)
    layer_files(store, 2)[0].unlink()
    problems = check_store(store.path, silent).parts[0].problems
    assert [p for p in problems if "frames/c/1/0/0: frames beyond the last are not zeros" in p]
    assert [p for p in problems if "frames/c/2/0/0 cannot be mapped" in p]
    assert [p for p in problems if p.startswith("frames of 6 of 6") and p.endswith("layers -1")]


def test_parts_are_merged_pruned_and_copied(tmp_path: Path, clips: Clips) -> None:
    cache = tmp_path / "cache"
    write(cache, {"clip/0": clips["clip/5"]}, digest=1)
    for key, frames in clips.items():
        store = write(cache, {key: frames})
    report = compact_store(store.path, silent)
    assert (report.parts_before, report.parts_after) == (7, 1)
    assert equal(FeatureStore(store.path), clips)
    kept = {key: clips[key] for key in ("clip/1", "clip/4")}
    pruned = prune_store(store.path, silent, kept)
    dropped = sum(len(frames) for key, frames in clips.items() if key not in kept)
    assert (pruned.outside, pruned.bytes) == (4, dropped * 3 * INFO.frame_bytes)
    copied = copy_store(store.path, tmp_path / "copy", silent)
    assert equal(FeatureStore(copied.store), kept)
    assert check_store(copied.store, silent).is_intact


def test_compact_counts_all_layers(tmp_path: Path, clips: Clips) -> None:
    for key, frames in clips.items():
        store = write(tmp_path, {key: frames})
    two = 3 * INFO.frame_bytes * (len(clips["clip/4"]) + len(clips["clip/5"]))
    compact_store(store.path, silent, two - 1)
    assert len(list_parts(store.path)[-1:]) == 1
    assert len(FeatureStore(store.path).parts[-1].ids) == 1


def test_hdf5_brings_all_layers_back(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path / "cache", clips)
    export_store(store.path, tmp_path / "all.h5", silent)
    report = import_store(tmp_path / "all.h5", tmp_path / "again", silent)
    assert equal(FeatureStore(report.store), clips)
    assert check_store(report.store, silent).is_intact
    (before,), (after,) = list_parts(store.path), list_parts(report.store)
    for file in (f for f in before.rglob("*") if f.is_file()):
        assert (after / file.relative_to(before)).read_bytes() == file.read_bytes(), file


def test_int8_has_a_scale_for_each_layer(tmp_path: Path, clips: Clips) -> None:
    wide = {key: frames * np.float16([[1], [5], [20]]) for key, frames in clips.items()}
    source = write(tmp_path / "many", wide)
    many = FeatureStore(quantize(source.path).path)
    assert check_store(many.path, silent).is_intact
    assert many.quantization.scale.shape == (3, 8)
    for place, layer in enumerate(LAYERS):
        alone = FeatureStore(quantize(write_layer(tmp_path / "alone", wide, layer).path).path)
        one = many.select((layer,))
        assert one.quantization.equals(alone.quantization)
        assert one.spec == alone.spec
        np.testing.assert_array_equal(one.frames("clip/3"), alone.frames("clip/3"))
        mapping = Store(many.path)
        np.testing.assert_array_equal(mapping.layer(layer)["clip/3"], mapping["clip/3"][:, place])
    error = np.abs(Store(many.path)["clip/3"] - wide["clip/3"].astype(np.float32))
    assert (error <= many.quantization.scale * 0.51).all()


def test_a_mirror_downloads_the_layer_that_is_read(
    tmp_path: Path, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELLM_COPIES", str(tmp_path / "copies"))
    url = f"memory://layers-{tmp_path.name}"
    store = write(tmp_path / "cache", clips)
    copy_store(store.path, open_mirror(url), silent)
    shutil.rmtree(tmp_path / "copies")
    mirrored = FeatureStore(open_mirror(url) / store.path.name, layers=(2,))
    assert equal(mirrored, {key: frames[:, 1] for key, frames in clips.items()})
    assert [len(layer_files(mirrored, place)) for place in range(3)] == [0, 1, 0]
    assert mirrored.nbytes == store.nbytes
    assert equal(mirrored.select(None), clips)
    assert check_store(mirrored.path, silent).is_intact


def test_python_sees_layers_as_a_dimension(tmp_path: Path, clips: Clips) -> None:
    store = Store(write(tmp_path, clips).path)
    assert store.layers == LAYERS
    assert store["clip/2"].shape == (160, 3, 8)
    assert store["clip/2"].dtype == np.float32
    np.testing.assert_array_equal(store.many(["clip/2"], 5, 9)[0], clips["clip/2"][5:9])
    one = store.layer(-1)
    assert (one.layers, one.frame_size, len(one)) == ((), 8, 6)
    np.testing.assert_array_equal(one["clip/2"], clips["clip/2"][:, 2])
    assert "6 clips, layers 0, 2, -1, 8 values in a frame" in repr(store)
    with pytest.raises(StoreError, match=r"has no layer 1, found 0, 2, -1; read one of these"):
        store.layer(1)


def test_a_selection_can_be_sent_to_other_processes(tmp_path: Path, clips: Clips) -> None:
    one = write(tmp_path, clips).select((2,))
    for other in (pickle.loads(pickle.dumps(one)), copy.copy(one)):
        assert other.spec == one.spec
        np.testing.assert_array_equal(other.frames("clip/3"), clips["clip/3"][:, 1])


def test_frames_of_another_number_of_layers_are_refused(tmp_path: Path, clips: Clips) -> None:
    with (
        StoreWriter(tmp_path, INFO) as writer,
        pytest.raises(FrameError, match=r"a/1: frames have shape \(40, 2, 8\), expected \(L, 3, 8"),
    ):
        writer.add("a/1", np.zeros(32, np.uint8), clips["clip/0"][:, :2])


def test_a_recipe_of_some_layers_finds_a_store_of_more(tmp_path: Path, clips: Clips) -> None:
    many = write(tmp_path, clips).path
    for layers in ((0,), (2,), (-1,), (0, 2), (2, -1), LAYERS):
        asked = replace(SPEC.with_layers(layers), weights_sha256="", blocks=0)
        assert find_store(tmp_path, asked) == many
        found = FeatureStore.find(tmp_path, asked)
        assert found.spec == SPEC.with_layers(layers)
    with pytest.raises(StoreError, match=r"layers: wanted 0-2, found 0, 2, -1; run `rellm"):
        find_store(tmp_path, SPEC.with_layers((0, 1, 2)))
    alone = write_layer(tmp_path, clips, 2).path
    assert find_store(tmp_path, SPEC.with_layers((2,))) == alone
    assert find_store(tmp_path, SPEC.with_layers((2, -1))) == many


def test_all_is_every_layer_of_the_model(tmp_path: Path, clips: Clips) -> None:
    every = replace(SPEC, layers="all", blocks=0, weights_sha256="")
    write(tmp_path, clips)
    with pytest.raises(StoreError, match="layers: wanted all, found 0, 2, -1"):
        find_store(tmp_path, every)
    info = replace(INFO, spec=replace(SPEC, layers=(0, 1, 2), blocks=2))
    found = write(tmp_path, clips, info)
    assert find_store(tmp_path, every) == found.path
    assert FeatureStore.find(tmp_path, every).spec.layers == (0, 1, 2)


def test_layers_and_checksums_must_fit(tmp_path: Path, clips: Clips) -> None:
    store = write(tmp_path, clips)
    column = store.parts[0].path / "frames_crc32c"
    shutil.rmtree(column)
    zarr.create_array(
        str(column), data=np.ones((6, 2), np.uint32), chunks=(6, 2),
        compressors=[zarr.codecs.Crc32cCodec()], filters=None,
    )  # fmt: skip
    with pytest.raises(StoreError, match="column 'frames_crc32c' is not for 3 layers"):
        FeatureStore(store.path).frames("clip/0")
