"""The reader against a tiny binary written here byte by byte."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.demo.ctranslate2_binary import read_ctranslate2
from rellm_cache.errors import RellmError

WEIGHT = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]], np.float16)


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def variable(name: str, shape: tuple[int, ...], dtype: int, values: bytes) -> bytes:
    head = text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return head + struct.pack("<BI", dtype, len(values)) + values


def binary(*variables: bytes, aliases: tuple[tuple[str, str], ...] = (), version: int = 6) -> bytes:
    head = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    tail = struct.pack("<I", len(aliases)) + b"".join(text(a) + text(n) for a, n in aliases)
    return head + b"".join(variables) + tail


GOOD = binary(
    variable("encoder/weight", (2, 3), 4, WEIGHT.tobytes()),
    variable("encoder/num_heads", (), 2, struct.pack("<h", 6)),
    aliases=(("projection", "encoder/weight"),),
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def to_file(data: bytes) -> Path:
        path = tmp_path / "model.bin"
        path.write_bytes(data)
        return path

    return to_file


def test_reads_values_scalars_and_aliases(write):
    variables = read_ctranslate2(write(GOOD))
    assert list(variables) == ["encoder/weight", "encoder/num_heads", "projection"]
    assert variables["encoder/weight"].dtype == np.float16
    np.testing.assert_array_equal(variables["encoder/weight"], WEIGHT)
    assert variables["encoder/num_heads"].shape == ()
    assert variables["encoder/num_heads"] == 6
    np.testing.assert_array_equal(variables["projection"], WEIGHT)


def test_a_file_truncated_anywhere_is_refused(write):
    for size in range(len(GOOD)):
        with pytest.raises(RellmError, match=r"model\.bin: expected \d+ bytes of .* found \d+"):
            read_ctranslate2(write(GOOD[:size]))


def test_a_file_with_extra_bytes_is_refused(write):
    with pytest.raises(RellmError, match=r"expected the end of the file .* found 3 more bytes"):
        read_ctranslate2(write(GOOD + b"abc"))


def test_another_version_is_named(write):
    with pytest.raises(RellmError, match=r"binary of version 6, found version 5"):
        read_ctranslate2(write(binary(version=5)))


def test_an_unknown_dtype_is_named(write):
    data = binary(variable("weight", (1,), 9, b"\0\0"))
    with pytest.raises(RellmError, match=r"weight has dtype id 9, expected one of \[0, 1, 2, 3, 4"):
        read_ctranslate2(write(data))


@pytest.mark.parametrize("shape", [(3, 3), (2**31, 2**31, 2**31)])
def test_a_shape_that_does_not_match_its_bytes_is_refused(write, shape):
    data = binary(variable("weight", shape, 4, WEIGHT.tobytes()))
    with pytest.raises(RellmError, match=r"weight has shape .* bytes, found 12"):
        read_ctranslate2(write(data))


def test_a_name_without_a_final_zero_byte_is_refused(write):
    data = GOOD.replace(b"encoder/weight\0", b"encoder/weight!", 1)
    with pytest.raises(RellmError, match=r"a final zero byte, found b'encoder/weight!'"):
        read_ctranslate2(write(data))


def test_an_alias_of_an_unknown_variable_is_refused(write):
    with pytest.raises(
        RellmError, match=r"alias 'projection' names the unknown variable 'nothing'"
    ):
        read_ctranslate2(write(binary(aliases=(("projection", "nothing"),))))
