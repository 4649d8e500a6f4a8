"""Attributes of stores, and the store that matches a recipe."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo, list_stores, read_info, store_path
from rellm_cache.store.maintenance.verify import find_stores
from rellm_cache.store.matching import find_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

WHISPER = EncoderSpec(
    kind="whisper", model="openai/whisper-tiny.en", weights_sha256="a" * 64, layer=2
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with one Whisper store of layer 2."""
    make(tmp_path, WHISPER)
    return tmp_path


def make(cache: Path, spec: EncoderSpec) -> Path:
    with StoreWriter(cache, StoreInfo(spec, 8, "MIT")) as writer:
        writer.add("a", np.zeros(32, np.uint8), np.ones((5, 8)))
    return writer.path


def test_a_recipe_without_a_pin_finds_its_store(cache: Path) -> None:
    store = FeatureStore.find(cache, replace(WHISPER, weights_sha256=""))
    assert store.path == store_path(cache, WHISPER)
    assert store.path.name.startswith("whisper-tiny.en-layer2-")
    assert store.spec == WHISPER


def test_pinned_weights_find_their_store_wherever_the_model_is(cache: Path) -> None:
    assert find_store(cache, replace(WHISPER, model="/models/w")) == store_path(cache, WHISPER)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(WHISPER, layer=3), r"another fingerprint; layer: wanted 3, found 2; run `rellm"),
        (replace(WHISPER, weights_sha256="b" * 64), r"weights_sha256: wanted 'b+', found 'a+'"),
        (
            replace(WHISPER, weights_sha256="", model="x/y"),
            r"model: wanted 'x/y', found 'openai/whisper",
        ),
        (EncoderSpec(kind="prosody"), "found no store of encoder prosody ; make it with"),
    ],
)
def test_another_fingerprint_names_the_field(cache: Path, spec: EncoderSpec, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        find_store(cache, spec)


def test_two_stores_with_different_weights_need_a_pin(cache: Path) -> None:
    other = make(cache, replace(WHISPER, weights_sha256="b" * 64))
    with pytest.raises(
        StoreError, match=r'2 stores hold .*; pin one .* weights_sha256 = "[ab]+" \('
    ):
        find_store(cache, replace(WHISPER, weights_sha256=""))
    assert find_store(cache, replace(WHISPER, weights_sha256="b" * 64)) == other


def test_other_folders_are_not_stores(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"not a feature store .* `rellm extract` made"):
        read_info(tmp_path)
    (tmp_path / "zarr.json").write_text('{"attributes": {}}')
    with pytest.raises(StoreError, match="not a feature store"):
        read_info(tmp_path)
    assert list(list_stores(tmp_path / "gone")) == []


def test_a_folder_of_stores_is_not_a_store(cache: Path) -> None:
    store = make(cache, WHISPER)
    with pytest.raises(StoreError, match=rf"{cache}: a folder of .*; name one: {store}$"):
        read_info(cache)
    (store / "zarr.json").unlink()  # of a broken store the parts are no stores
    with pytest.raises(StoreError, match=r"not a feature store .* try `rellm cache repair"):
        read_info(store)


@pytest.mark.parametrize(
    "use",
    [lambda root: list(list_stores(root)), find_stores, lambda root: make(root, WHISPER)],
    ids=["read", "mend", "write"],
)
def test_a_store_is_not_a_folder_of_stores(cache: Path, use: Callable[[Path], object]) -> None:
    store = make(cache, WHISPER)
    before = sorted(store.iterdir())
    with pytest.raises(StoreError, match=rf"{store}: a feature store, .*; give {cache}$"):
        use(store)
    assert sorted(store.iterdir()) == before


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format_version", 2, "found format rellm-feature-store 2, expected rellm-feature-store 1"),
        ("fingerprint", "0" * 64, "zarr.json was altered"),
        ("encoder", {"kind": "hubert"}, "zarr.json was altered"),  # a plug-in that is not installed
        ("encoder", {"kind": "prosody", "extra": 1}, "its encoder is unknown to this version"),
    ],
)
def test_altered_attributes_are_an_error(
    cache: Path, key: str, value: object, message: str
) -> None:
    path = store_path(cache, WHISPER)
    attributes = json.loads((path / "zarr.json").read_text())
    attributes["attributes"]["rellm"][key] = value
    (path / "zarr.json").write_text(json.dumps(attributes))
    with pytest.raises(StoreError, match=message):
        FeatureStore(path)


def test_a_store_is_found_under_another_name_of_its_model(cache: Path) -> None:
    assert make(cache, replace(WHISPER, model="/models/copy")) == store_path(cache, WHISPER)
    assert len(list(list_stores(cache))) == 1


def test_a_store_may_be_moved(write: Callable[..., FeatureStore], tmp_path: Path) -> None:
    store = write({"a": np.ones((5, 8))})
    moved = store.path.rename(tmp_path / "elsewhere")
    np.testing.assert_array_equal(FeatureStore(moved).frames("a"), np.ones((5, 8)))
