"""Array files: other libraries read the same ids, labels and values, without rellm."""

import json
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas
import pyarrow.parquet as parquet
import pytest
from safetensors import safe_open

from rellm_cache.corpus import array_files
from rellm_cache.corpus.array_files import (
    ArrayColumn,
    ArrayFormat,
    ArrayTable,
    labels_of,
    write_arrays,
)
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError, RellmError

FORMATS = get_args(ArrayFormat)
SIZES = {"frames": 3, "mean": 5}
LENGTHS = np.array([4, 1, 7])
UTTERANCES = [
    Utterance("a/1", "1.wav", text="Grüße,\n„ja“", emotion="happy", vad=(0.5, 0.25, 1.0)),
    Utterance("a/2", "2.wav", speaker="eva", split="train"),
    Utterance("ü/3", "3.wav", emotion="own name"),
]
Values = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def values() -> Values:
    """Frames (L, 3) float16 and a vector (5,) float32 of each utterance."""
    random = np.random.default_rng(1)
    return [
        (random.normal(size=(n, 3)).astype(np.float16), random.normal(size=5).astype(np.float32))
        for n in LENGTHS
    ]


def table_of(values: Values) -> ArrayTable:
    columns = [
        ArrayColumn("frames", 3, np.dtype(np.float16), is_sequence=True),
        ArrayColumn("mean", 5, np.dtype(np.float32), is_sequence=False),
    ]
    labels = [labels_of(u) for u in UTTERANCES]
    return ArrayTable(labels, columns, LENGTHS, values, {"licence": "test licence, ü"})


def read_flat(offsets: np.ndarray, frames: np.ndarray, mean: np.ndarray) -> Values:
    return [(frames[a:b], own) for (a, b), own in zip(pairwise(offsets), mean, strict=True)]


def read_parquet(path: Path) -> tuple[list[dict[str, Any]], Values, dict[str, Any]]:
    found = pandas.read_parquet(path)
    arrays = zip(found["frames"], found["mean"], strict=True)
    values = [(np.stack(frames), mean) for frames, mean in arrays]
    rows = parquet.read_table(path).drop_columns(["frames", "mean"]).to_pylist()
    return rows, values, json.loads(parquet.read_schema(path).metadata[b"rellm"])


def read_safetensors(path: Path) -> tuple[list[dict[str, Any]], Values, dict[str, Any]]:
    with safe_open(path, "np") as file:
        values = read_flat(*(file.get_tensor(name) for name in ("offsets", "frames", "mean")))
        own = file.metadata()
    return json.loads(own["utterances"]), values, json.loads(own["rellm"])


def read_npy(path: Path) -> tuple[list[dict[str, Any]], Values, dict[str, Any]]:
    arrays = (np.load(path / f"{n}.npy", mmap_mode="r") for n in ("offsets", "frames", "mean"))
    rows = [json.loads(line) for line in (path / "utterances.jsonl").read_text().splitlines()]
    return rows, read_flat(*arrays), json.loads((path / "rellm.json").read_text())


READERS = {"parquet": read_parquet, "safetensors": read_safetensors, "npy": read_npy}


@pytest.mark.parametrize("kind", FORMATS)
def test_values_and_labels_are_read_back(
    tmp_path: Path, values: Values, kind: ArrayFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "GROUP_BYTES", 60)  # two row groups
    write_arrays(tmp_path / f"out.{kind}", kind, table_of(values))
    rows, found, about = READERS[kind](tmp_path / f"out.{kind}")
    assert rows == [labels_of(u) for u in UTTERANCES]
    assert rows[0]["text"] == "Grüße,\n„ja“"
    assert about == {"licence": "test licence, ü"}
    for (frames, mean), (own_frames, own_mean) in zip(values, found, strict=True):
        assert (own_frames.dtype, own_mean.dtype) == (np.float16, np.float32)
        np.testing.assert_array_equal(own_frames, frames)
        np.testing.assert_array_equal(own_mean, mean)
    if kind == "parquet":
        assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 2
    write_arrays(tmp_path / f"again.{kind}", kind, table_of(values))
    assert contents(tmp_path / f"again.{kind}") == contents(tmp_path / f"out.{kind}")


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [*path.iterdir()]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_replaced_and_nothing_is_left_of_a_failure(
    tmp_path: Path, values: Values, kind: ArrayFormat
) -> None:
    out = tmp_path / "out"

    def broken() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield values[0]
        raise RellmError("damaged")

    with pytest.raises(RellmError, match="damaged"):
        write_arrays(out, kind, replace(table_of(values), rows=broken()))
    short = [values[0], (values[1][0], values[1][1][:4]), values[2]]
    with pytest.raises(RellmError, match=r"mean of 'a/2': found float32 \(4,\), expected .*\(5,\)"):
        write_arrays(out, kind, table_of(short))
    assert list(tmp_path.iterdir()) == []
    out.write_text("mine")
    with pytest.raises(RellmError, match="out: exists already; name another file"):
        write_arrays(out, kind, table_of(values))
    assert out.read_text() == "mine"
    with pytest.raises(ConfigError, match=r"x\.h5: is the name of a file of hdf5; add --format hd"):
        write_arrays(tmp_path / "x.h5", kind, table_of(values))


def test_a_missing_library_names_the_extra(
    tmp_path: Path, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'rellm\[parquet\]', or write safetensors"):
        write_arrays(tmp_path / "out.parquet", "parquet", table_of(values))


def test_the_limit_of_a_safetensors_header_is_named(
    tmp_path: Path, values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_files, "LARGEST_HEADER", 300)
    with pytest.raises(RellmError, match=r"labels of 3 utterances need \d+ bytes .* allows 300"):
        write_arrays(tmp_path / "out.safetensors", "safetensors", table_of(values))


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_does_not_grow_with_the_rows(
    tmp_path: Path, kind: ArrayFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 utterances at most those of two row groups are in memory at a time."""
    monkeypatch.setattr(array_files, "GROUP_BYTES", 5_000)  # bytes of ten utterances
    alive = most = 0

    def drop() -> None:
        nonlocal alive
        alive -= 1

    def rows() -> Iterator[list[np.ndarray]]:
        nonlocal alive, most
        for _ in labels:
            frames = np.zeros((50, 5), np.float16)
            weakref.finalize(frames, drop)
            alive += 1
            most = max(most, alive)
            yield [frames]

    column = ArrayColumn("frames", 5, np.dtype(np.float16), is_sequence=True)
    labels = [{"id": f"clip/{index}"} for index in range(200)]
    table = ArrayTable(labels, [column], np.full(200, 50), rows(), {})
    write_arrays(tmp_path / "out", kind, table)
    assert 1 <= most <= 22
