"""Store mapping: a dictionary of float32 frames, quantized or not, here or at a URL."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo, store_path
from rellm_cache.store.mapping import Store
from rellm_cache.store.writer import StoreWriter

SPEC = EncoderSpec(kind="prosody")


@pytest.fixture
def frames() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {f"a/{n}": random.normal(size=(n, 4)).astype(np.float16) for n in (60, 7, 31)}


@pytest.fixture
def path(tmp_path: Path, frames: dict[str, np.ndarray]) -> Path:
    """A store of three clips of 60, 7 and 31 frames, in two parts."""
    info = StoreInfo(SPEC, 4, "none")
    for part in (["a/60", "a/7"], ["a/31"]):
        with StoreWriter(tmp_path / "cache", info) as writer:
            for name in part:
                writer.add(name, np.zeros(32, np.uint8), frames[name], None)
    return store_path(tmp_path / "cache", SPEC)


def test_it_is_a_dictionary_of_float32_frames(path: Path, frames: dict[str, np.ndarray]) -> None:
    store = Store(path)
    assert store.ids == tuple(store) == tuple(store.keys()) == ("a/60", "a/7", "a/31")
    assert store.lengths.tolist() == [60, 7, 31]
    assert store.lengths.dtype == np.int64
    assert (len(store), store.frame_size, store.spec, store.licence) == (3, 4, SPEC, "none")
    for name, values in store.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, frames[name])
    store["a/7"][:] = 0  # a copy
    np.testing.assert_array_equal(store["a/7"], frames["a/7"])
    assert repr(store) == f"Store('{path}': 3 clips, 4 values in a frame)"


def test_slices_of_many_clips(path: Path, frames: dict[str, np.ndarray]) -> None:
    store, names = Store(path), ["a/31", "a/7", "a/31"]
    for start, stop in ((0, None), (2, 9), (-3, None), (40, 50)):
        for name, values in zip(names, store.many(names, start, stop), strict=True):
            np.testing.assert_array_equal(values, frames[name][start:stop])
    assert store.many([]) == []


def test_an_absent_clip_is_a_key_error_and_damage_is_not(path: Path) -> None:
    store = Store(path)
    assert store.get("b") is None
    assert "b" not in store
    for ask in (store.__getitem__, lambda name: store.many(["a/7", name])):
        with pytest.raises(KeyError, match="no clip 'b'"):
            ask("b")
    shard = next(path.glob("part-000001-*/frames/c/0/0"))
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="a/60"):
        Store(path)["a/60"]
    with pytest.raises(StoreError, match="not a feature store"):
        Store(path / "part-1")


def test_int8_frames_are_dequantized(path: Path, frames: dict[str, np.ndarray]) -> None:
    store = Store(quantize(path).path)
    for name, values in zip(store.ids, store.many(store.ids), strict=True):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, frames[name], atol=0.03)


def test_another_process_reads_it_too(path: Path, frames: dict[str, np.ndarray]) -> None:
    again = pickle.loads(pickle.dumps(Store(path)))
    np.testing.assert_array_equal(again["a/31"], frames["a/31"])
