"""One small array of a part. In: its folder. Out: the whole array, its checksum compared.

As the writer leaves it, a column is one file: its bytes, then their CRC-32C. That is read directly,
since a store may have hundreds of parts; any other layout goes through zarr.
"""

import json
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

CRC_BYTES = 4
BYTES = ({"name": "bytes"}, {"name": "bytes", "configuration": {"endian": "little"}})


def read_column(path: Path) -> np.ndarray:
    """The array at `path`.

    Raises:
        OSError, ValueError, KeyError: it is missing, cut short, altered or no Zarr array.
        Exception: whatever zarr raises, where the layout is another than the writer's.
    """
    meta = json.loads((path / "zarr.json").read_text("utf-8"))
    shape = tuple(meta["shape"])
    only_chunk = path.joinpath("c", *("0" * len(shape)))
    if not only_chunk.is_file():  # zarr would read zeros
        raise FileNotFoundError(f"{only_chunk} is missing")
    if not _is_plain(meta):
        return np.asarray(zarr.open_array(str(path), mode="r")[:])
    data = only_chunk.read_bytes()
    dtype = np.dtype(meta["data_type"]).newbyteorder("<")
    expected = int(np.prod(shape)) * dtype.itemsize + CRC_BYTES
    if len(data) != expected:
        raise ValueError(f"{only_chunk} has {len(data)} bytes, expected {expected}")
    body = memoryview(data)[:-CRC_BYTES]
    if google_crc32c.value(bytes(body)) != int.from_bytes(data[-CRC_BYTES:], "little"):
        raise ValueError(f"{only_chunk}: its checksum is wrong")
    return np.frombuffer(body, dtype).reshape(shape)


def _is_plain(meta: dict[str, Any]) -> bool:
    """Whether the array is one uncompressed chunk with a checksum, as `write_part` makes it."""
    return (
        meta["chunk_grid"]["configuration"]["chunk_shape"] == meta["shape"]
        and meta["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and len(meta["codecs"]) == 2
        and meta["codecs"][0] in BYTES
        and meta["codecs"][1] == {"name": "crc32c"}
    )
