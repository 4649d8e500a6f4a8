"""Text and CSV files: encodings, missing columns, and errors with file and line."""

from pathlib import Path

import pytest

from rellm_cache.corpus.text_files import Problems, read_csv, read_text, read_text_lines
from rellm_cache.errors import ManifestError
from rellm_cache.utils.atomic_files import write_csv


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"]
)
def test_the_encoding_is_detected(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("caf\u00e9 one\r\n\r\ntwo".encode(encoding))
    assert read_text(path, Problems()) == "caf\u00e9 one\r\n\r\ntwo"
    assert read_text_lines(path, Problems()) == [
        (f"{path}:1", "caf\u00e9 one"),
        (f"{path}:3", "two"),
    ]


def test_a_missing_and_a_truncated_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.txt: no such file; is the corpus complete"):
        read_text(tmp_path / "none.txt", Problems())
    (tmp_path / "cut.txt").write_bytes("ab".encode("utf-16")[:-1])
    with pytest.raises(ManifestError, match=r"cut.txt: not utf-16 text"):
        read_text(tmp_path / "cut.txt", Problems())


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
        (b"b,c\nx,Well, no\n", r"a.csv:2: found . values, expected one for each of the 2 columns"),
        (b"b,c\nx\n", r"a.csv:2: found . values, expected one for each of the 2 columns"),
        (b'b,c\nx,"Oh\ny,No\n', r"a.csv:2: column 2: not CSV .* is a quotation mark not closed"),
        (b"c\nGr\xf6\xdfe\n", "a.csv:2: not UTF-8 text"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_csv(path, ["c"])


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        (
            "It\u2019s \u201cfine\u201d\u2014so".encode("gbk"),
            "It\u2019s \u201cfine\u201d\u2014so",
            "gbk",
        ),
        (b"caf\xa8\xa6", "caf\u00e9", "gbk"),
        (
            b"It\x92s \x93fine\x94 \x96 so\x85",
            "It\u2019s \u201cfine\u201d \u2013 so\u2026",
            "windows-1252",
        ),
        (b"caf\xe9", "caf\u00e9", "latin-1"),
        (b"Gr\xfc\xdfe", "Gr\u00fc\u00dfe", "latin-1"),
        (b"caf\xe9\x81", "caf\u00e9\x81", "latin-1"),
    ],
)
def test_other_encodings_are_detected_and_their_lines_reported(
    tmp_path: Path, data: bytes, text: str, encoding: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"plain\n" + data)
    problems = Problems()
    assert read_text(path, problems) == f"plain\n{text}"
    assert problems.lines == {
        f"lines that are not UTF-8, read as {encoding}": [f"{path}:2: {text!r}"]
    }


def test_utf32_is_read_and_zero_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("caf\u00e9".encode("utf-32"))
    assert read_text(path, Problems()) == "caf\u00e9"
    path.write_bytes(b"a sentence\nand \0 another, after a lost block")
    with pytest.raises(ManifestError, match=r"a.txt:2: found a zero byte, expected text; copy it"):
        read_text(path, Problems())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,a\n1,2,3\n", "a.csv:1: columns 1 and 3 are both named 'a'; rename one"),
        ("a , b,a\n1,2,3\n", "a.csv:1: columns 1 and 3 are both named 'a'; rename one"),
        ("a;b\n1;2\n", "a.csv:1: found columns separated by ';', expected commas"),
        ("a\tb\n1\t2\n", r"a.csv:1: found columns separated by '\\t', expected commas"),
        ('a,b\n1,2\n3,"no"t\n', "a.csv:3: column 2: not CSV .* is a quotation mark not closed"),
        ('a,b\n"x\ny",2\n3,"no\n4,5\n', "a.csv:4: column 2: not CSV .*found '\"no"),
        ('a,b\r\n1,"two, ""x"" "\r\n"3" ,4\r\n', "a.csv:3: column 1: not CSV"),
        ("a,b\n1,2,3\n", "a.csv:2: found 3 values, expected one for each of the 2 columns"),
    ],
)
def test_rows_and_columns_of_a_bad_table_are_named(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    with pytest.raises(ManifestError, match=message):
        read_csv(path)


def test_long_texts_blank_rows_and_columns_without_a_heading_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    long = "word " * 40_000
    path.write_text(f",a,\n0,{long},\n,,\n\n1,b,c\n", "utf-8")
    assert [row for _, row in read_csv(path)] == [
        {"column 1": "0", "a": long, "column 3": ""},
        {"column 1": "1", "a": "b", "column 3": "c"},
    ]


def test_spaces_after_commas_are_skipped_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a, b\n 1, "two, three"\n', "utf-8")
    assert read_csv(path, skip_spaces=True) == [(f"{path}:2", {"a": "1", "b": "two, three"})]
    with pytest.raises(ManifestError, match=r"a.csv:2: found 3 values"):
        read_csv(path)


def test_every_cell_that_is_written_is_read_back(tmp_path: Path) -> None:
    cells = ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", " a ", "", "é\u2028"]
    write_csv(tmp_path / "a.csv", ["id", "text"], enumerate(cells))
    assert [row["text"] for _, row in read_csv(tmp_path / "a.csv")] == cells
    assert (tmp_path / "a.csv").read_bytes().startswith(b'id,text\n0,"a\rb"\n1,"a\nb"\n')
