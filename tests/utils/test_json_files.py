"""read_object: the object, or an error with file, cause and fix."""

from pathlib import Path

import pytest

from rellm_cache.errors import RellmError, RunError
from rellm_cache.utils.json_files import parse_object, parse_plain, read_object


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


PLAIN = '{"id": "a", "vad": [0.1, 0, 1.0], "duration": 2, "early_stop": false, "emotion": null}'


def test_plain_lines_are_read_as_others() -> None:
    assert parse_plain(PLAIN) == parse_object(PLAIN, "a:1", RellmError, "", strict=True)
    assert parse_plain(' {"text": "é: , [ {"} ') == {"text": "é: , [ {"}
    assert parse_plain("{}") == {}


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
    assert parse_plain(text) is None
