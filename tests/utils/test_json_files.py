"""JSON files: the value, or an error with file, cause and fix."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from rellm_cache.errors import RellmError, RunError
from rellm_cache.utils.json_files import (
    build_record,
    decode,
    parse_object,
    parse_plain_lines,
    read_object,
    read_utf8,
)


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"identity": "ä"}', "utf-8")
    assert read_object(tmp_path / "a.json", RunError, "remove it") == {"identity": "ä"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"identity": ', r"a\.json: not JSON \(.*\); remove it"),
        (b"", r"a\.json: not JSON \(.*\); remove it"),
        (b'{"identity": "\xff"}', r"a\.json:1: not UTF-8 text \(.*\); save it as UTF-8"),
        (b"[1]", r"a\.json: expected a JSON object, found \[1\]; remove it"),
        (None, r"a\.json: no such file; remove it"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_object(tmp_path / "a.json", RunError, "remove it")


@dataclass(frozen=True)
class Inner:
    count: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner | None
    scores: dict[str, float]
    kind: Literal["a", "b"] = "a"


VALUE = {"name": "n", "inner": {"count": 2, "names": ["x"]}, "scores": {"ua": 1, "wa": 0.5}}


def test_a_record_is_built() -> None:
    found = build_record(Outer, VALUE)
    assert found == Outer("n", Inner(2, ("x",)), {"ua": 1.0, "wa": 0.5})
    assert build_record(Outer, asdict(found) | {"inner": None}).inner is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name: found 3, expected str"),
        ({"inner": [1]}, r"inner: found \[1\], expected a JSON object"),
        ({"inner": {"count": True}}, "count: found True, expected int"),
        ({"inner": {"count": 1.5}}, r"count: found 1\.5, expected int"),
        ({"inner": {"names": []}}, "inner: 'count' is missing"),
        ({"inner": {"count": 1, "names": "x"}}, "names: found 'x', expected tuple"),
        ({"inner": {"count": 1, "names": [1]}}, "names: found 1, expected str"),
        ({"scores": {"ua": "high"}}, r"scores\.ua: found 'high', expected float"),
        ({"scores": [1]}, r"scores: found \[1\], expected dict"),
        ({"kind": "c"}, r"kind: found 'c', expected one of \('a', 'b'\)"),
        ({"other": 1}, "Outer: unknown name 'other'"),
    ],
)
def test_other_records_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_record(Outer, VALUE | change)


@pytest.mark.parametrize("value", [[1], "text", None, 3])
def test_a_record_is_an_object(value: Any) -> None:
    with pytest.raises(ValueError, match=r"Outer: found .* expected a JSON object"):
        build_record(Outer, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested too deep, more than 100 times"),
        ("[" * 900 + "]" * 900, "nested too deep, more than 100 times"),
        ("1" * 400, "an integer of 400 digits"),
        ("1" * 5000, "an integer of 5000 digits"),
        (r'{"a": "\ud800"}', "half of a character"),
        (b"\xff\xfe", "Expecting value"),
        (b"\x80", "utf-8"),
        (b'"\xed\xa0\x80"', "utf-8"),  # half of a character, as bytes
        ("", "Expecting value"),
    ],
    ids=range(10),
)
def test_values_that_nothing_holds_are_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(text)


def test_many_brackets_are_no_depth() -> None:
    assert decode("[" + "[1]," * 1000 + "[1]]")[-1] == [1]
    assert decode("[" * 100 + "]" * 100)


def test_the_encoding_that_a_text_may_have_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a b.csv"
    path.write_bytes(b"text\nIt\xe9s caf\xe9\n")
    with pytest.raises(
        RunError,
        match=r"a b\.csv:2: not UTF-8 .*: WINDOWS-1252, in which line 2 is "
        r"'Ités café'\? Then `iconv -f WINDOWS-1252 -t UTF-8 '.*a b\.csv' > NEW`",
    ):
        read_utf8(path, RunError, "save it")
    path.write_text("text\nItés\n", "utf-16")
    with pytest.raises(RunError, match="iconv -f UTF-16 -t UTF-8"):
        read_utf8(path, RunError, "save it")
    path.write_bytes(b"text\n\x81\xff\n")  # no Windows-1252
    with pytest.raises(RunError, match=r":2: not UTF-8 text \(found bytes b'\\x81'\); save it"):
        read_utf8(path, RunError, "save it")


PLAIN = '{"id": "a", "vad": [0.1, 0, 1.0], "duration": 2, "early_stop": false, "emotion": null}'


def plain(*lines: str) -> list[dict[str, Any] | None]:
    return list(parse_plain_lines(lines))


def test_plain_lines_are_read_as_others() -> None:
    assert plain(PLAIN) == [parse_object(PLAIN, "a:1", RellmError, "", strict=True)]
    assert plain(' {"text": "é: , [ {"} ', "{}\r") == [{"text": "é: , [ {"}, {}]
    assert plain() == []


@pytest.mark.parametrize(
    "text",
    [
        '{"id": "a", "id": "b"}', '{"id": 1, "id": 1}', '{"a": NaN}', '{"a": -Infinity}',
        '{"a": "\\u0041"}', '{"a": "\\n"}', '{"a": {"b": 1}}', '{"a": [[1]]}', '{"a": ["b"]}',
        f'{{"a": {"1" * 30}}}', f'{{"a": {"1" * 5000}}}', "[" * 100_000,
        "[]", "1", "", "{", '{"a"}',
    ],
)  # fmt: skip
def test_lines_that_need_a_closer_look(text: str) -> None:
    assert plain(text) == [None]
    # Its neighbours are read all the same, and each line stands for itself.
    assert plain("{}", text, PLAIN, text) == [{}, None, decode(PLAIN), None]


@pytest.mark.parametrize(
    "lines",
    [
        ('{"a": [1', '2]}'), ('{"a": [1', '2]}, {"b": 1}'), ('{"a": "x', 'y"}'),
        ('{"a": 1}, {"b": 2}', ""), ('{"a": 1', '}, {}'), ("[", "]"), ("", "{},{}"),
    ],
    ids=range(7),
)  # fmt: skip
def test_lines_are_not_read_across_their_ends(lines: tuple[str, str]) -> None:
    assert plain(*lines) == [None, None]
    assert plain(PLAIN, *lines, "{}") == [decode(PLAIN), None, None, {}]


def test_many_lines_are_read_in_their_order() -> None:
    lines = [f'{{"a": {number}}}' if number % 700 else "{" for number in range(2500)]
    assert plain(*lines) == [{"a": n} if n % 700 else None for n in range(2500)]
