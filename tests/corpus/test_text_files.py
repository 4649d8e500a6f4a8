"""Text and CSV files: encodings, missing columns, and errors with file and line."""

from pathlib import Path

import pytest

from rellm_cache.corpus.text_files import read_csv, read_text, read_text_lines
from rellm_cache.errors import ManifestError


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"]
)
def test_the_encoding_is_detected(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("caf\u00e9 one\r\n\r\ntwo".encode(encoding))
    assert read_text(path) == "caf\u00e9 one\r\n\r\ntwo"
    assert read_text_lines(path) == [(f"{path}:1", "caf\u00e9 one"), (f"{path}:3", "two")]


def test_a_missing_and_a_truncated_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.txt: no such file; is the corpus complete"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "cut.txt").write_bytes("ab".encode("utf-16")[:-1])
    with pytest.raises(ManifestError, match=r"cut.txt: not utf-16 text"):
        read_text(tmp_path / "cut.txt")


def test_rows_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\ufeffa,b\n1,"two\nlines"\n3,\n', "utf-8")
    assert read_csv(path, ["b"]) == [
        (f"{path}:3", {"a": "1", "b": "two\nlines"}),
        (f"{path}:4", {"a": "3", "b": ""}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n", "column c is missing; found a, b"),
        (b"", "column c is missing; found an empty file"),
        (b"b,c\nx,Well, no\n", r"a.csv:2: found more or fewer values than the 2 columns"),
        (b"b,c\nx\n", r"a.csv:2: found more or fewer values than the 2 columns"),
        (b'b,c\nx,"Oh\ny,No\n', r"not a CSV file after line 1 .* is a quotation mark not closed"),
        (b"c\nGr\xf6\xdfe\n", "a.csv: not UTF-8 text"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_csv(path, ["c"])
