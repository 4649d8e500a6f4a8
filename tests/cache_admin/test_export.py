"""Export of a store: frames and means as the store has them, in every format and of every type."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas
import pytest
from safetensors import safe_open

from rellm_cache.cache_admin.export import ExportOptions, export
from rellm_cache.cache_admin.quantize import quantize
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.array_files import ArrayFormat
from rellm_cache.errors import ConfigError, ManifestError, RellmError, StoreError
from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.mapping import Store
from rellm_cache.store.writer import StoreWriter

SPEC = EncoderSpec(kind="whisper", model="m", weights_sha256="a" * 64, layers=(0, 2, -1), blocks=4)
SPECS = {
    "float16": replace(SPEC, layers=(), layer=2),
    "int8": replace(SPEC, layers=(), layer=2),
    "layers": SPEC,
    "int8 layers": SPEC,
}
Arrays = dict[str, dict[str, np.ndarray]]  # column → utterance id → frames or vector


@pytest.fixture(params=SPECS, scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of three and two clips; `b` is in both."""
    root = tmp_path_factory.mktemp("cache")
    info = StoreInfo(SPECS[request.param], 6, "test licence")
    random = np.random.default_rng(2)
    for names in (["a", "b", "ü/3"], ["b", "d"]):
        with StoreWriter(root, info) as writer:
            for name in names:
                shape = (random.integers(40, 90), *info.frame_shape)
                digest = random.integers(0, 256, 32).astype(np.uint8)
                writer.add(name, digest, random.normal(size=shape))
    return quantize(writer.path).path if request.param.startswith("int8") else writer.path


def read(path: Path, kind: ArrayFormat) -> Arrays:
    """Arrays of an export, read without rellm."""
    if kind == "parquet":
        table = pandas.read_parquet(path)
        columns = [c for c in table.columns if c.startswith(("frames", "mean"))]
        return {c: dict(zip(table["id"], map(np.stack, table[c]), strict=True)) for c in columns}
    if kind == "npy":
        arrays = {f.stem: np.load(f, mmap_mode="r") for f in path.glob("*.npy")}
        ids = list(pandas.read_json(path / "utterances.jsonl", lines=True)["id"])
    else:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.offset_keys()}
            ids = [row["id"] for row in json.loads(file.metadata()["utterances"])]
    offsets = arrays.pop("offsets", None)
    if offsets is not None:
        arrays = {name: np.split(values, offsets[1:-1]) for name, values in arrays.items()}
    return {name: dict(zip(ids, values, strict=True)) for name, values in arrays.items()}


def expected(store: Path, mean: bool) -> Arrays:
    """What `open_store` gives, which is float32."""
    own = Store(store)
    name = "mean" if mean else "frames"
    columns = {name: own}
    if own.layers:
        ends = {-1: "last"}
        columns = {f"{name}_layer_{ends.get(n, n)}": own.layer(n) for n in own.layers}
    return {
        c: {i: s[i].mean(0, dtype=np.float64).astype(np.float32) if mean else s[i] for i in s.ids}
        for c, s in columns.items()
    }


@pytest.mark.parametrize("mean", [False, True], ids=["frames", "means"])
@pytest.mark.parametrize("kind", get_args(ArrayFormat))
def test_an_export_has_the_values_of_the_store(
    store: Path, tmp_path: Path, kind: ArrayFormat, mean: bool
) -> None:
    assert export(store, tmp_path / "out", kind, ExportOptions(mean)) == 4  # `b` once
    found, wanted = read(tmp_path / "out", kind), expected(store, mean)
    assert found.keys() == wanted.keys()
    kept = np.float32 if mean or "int8" in store.name else np.float16
    for column, values in wanted.items():
        assert list(found[column]) == list(values) == ["a", "ü/3", "b", "d"]
        for name, frames in values.items():
            assert found[column][name].dtype == kept
            np.testing.assert_array_equal(found[column][name], frames)


@pytest.mark.parametrize("store", ["float16"], indirect=True)
def test_a_manifest_chooses_and_labels_utterances(store: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "test.jsonl"
    manifest.write_text(
        '{"id": "d", "audio": "d.wav", "emotion": "sad", "vad": [0.1, 0.2, 0.3]}\n'
        '{"id": "a", "audio": "a.wav", "text": "Hello.", "speaker": "eva"}\n'
    )
    export(store, tmp_path / "x.parquet", "parquet", ExportOptions(True, manifest))
    table = pandas.read_parquet(tmp_path / "x.parquet").drop(columns="mean")
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    assert [row["id"] for row in rows] == ["d", "a"]
    assert [row["split"] for row in rows] == ["test", "test"]
    assert [(row["emotion"], row["speaker"], row["text"]) for row in rows] == [
        ("sad", None, None), (None, "eva", "Hello."),
    ]  # fmt: skip
    assert (rows[0]["arousal"], rows[1]["arousal"]) == (np.float32(0.1), None)
    manifest.write_text('{"id": "gone", "audio": "d.wav"}\n')
    with pytest.raises(StoreError, match=r"1 of 1 clips are absent .*'gone'; add them with `rellm"):
        export(store, tmp_path / "y.parquet", "parquet", ExportOptions(manifest=manifest))
    with pytest.raises(ManifestError, match=r"none\.jsonl"):
        export(store, tmp_path / "y", "npy", ExportOptions(manifest=tmp_path / "none.jsonl"))


@pytest.mark.parametrize("store", ["layers"], indirect=True)
def test_some_layers(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "one", "npy", ExportOptions(layers=(2,)))
    found = read(tmp_path / "one", "npy")
    assert list(found) == ["frames"]
    np.testing.assert_array_equal(found["frames"]["a"], Store(store).layer(2)["a"])
    with pytest.raises(StoreError, match="has no layer 5, found 0, 2, -1"):
        export(store, tmp_path / "two", "npy", ExportOptions(layers=(5,)))


@pytest.mark.parametrize("store", ["float16"], indirect=True)
def test_damage_and_other_outputs_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an HDF5 file holds a whole store; choose --format"):
        export(store, tmp_path / "x.h5", "hdf5", ExportOptions(mean=True))
    with pytest.raises(ConfigError, match=r"is the name of a file of parquet; add --format parq"):
        export(store, tmp_path / "x.parquet", "hdf5")
    (tmp_path / "taken").mkdir()
    for kind in ("hdf5", *get_args(ArrayFormat)):
        with pytest.raises(RellmError, match="taken: exists already"):
            export(store, tmp_path / "taken", kind)
    damaged = Path(shutil.copytree(store, tmp_path / "cache" / store.name))
    shard = list_parts(damaged)[0] / "frames/c/0/0"
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    for kind in get_args(ArrayFormat):
        with pytest.raises(StoreError, match="do not match their checksum"):
            export(damaged, tmp_path / "out", kind)
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "taken"}
