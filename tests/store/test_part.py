"""Columns of a part: equal values read directly and through zarr; damage is an error."""

from pathlib import Path

import numpy as np
import pytest
import zarr
import zarr.codecs

from rellm_cache.store.part import read_column

VALUES = {
    "uint8": np.arange(256, dtype=np.uint8),
    "int64": np.array([0, -1, 2**62], np.int64),
    "float32": np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32),
}


def write(path: Path, values: np.ndarray, **codecs: object) -> Path:
    array = zarr.create_array(
        str(path), shape=values.shape, dtype=values.dtype, chunks=values.shape, **codecs
    )
    array[:] = values
    return path.joinpath("c", *("0" * values.ndim))


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_a_column_is_read_as_zarr_reads_it(tmp_path: Path, values: np.ndarray) -> None:
    write(tmp_path / "plain", values, compressors=[zarr.codecs.Crc32cCodec()], filters=None)
    write(tmp_path / "packed", values)  # compressed, as another program might write it
    for name in ("plain", "packed"):
        found = read_column(tmp_path / name)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(found, zarr.open_array(str(tmp_path / name), mode="r")[:])


@pytest.mark.parametrize("bit", [0, 77, 255 * 8, 257 * 8])
def test_a_flipped_bit_is_an_error(tmp_path: Path, bit: int) -> None:
    values = VALUES["uint8"]
    chunk = write(tmp_path / "a", values, compressors=[zarr.codecs.Crc32cCodec()], filters=None)
    data = bytearray(chunk.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    chunk.write_bytes(data)
    with pytest.raises(ValueError, match="its bytes do not match their checksum"):
        read_column(tmp_path / "a")


def test_a_missing_or_short_chunk_is_an_error(tmp_path: Path) -> None:
    values = VALUES["int64"]
    chunk = write(tmp_path / "a", values, compressors=[zarr.codecs.Crc32cCodec()], filters=None)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has 27 bytes, expected 28"):
        read_column(tmp_path / "a")
    chunk.unlink()
    with pytest.raises(FileNotFoundError, match="c/0 is missing"):
        read_column(tmp_path / "a")
