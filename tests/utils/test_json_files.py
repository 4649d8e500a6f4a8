"""read_object: the object, or an error with file, cause and fix."""

from pathlib import Path

import pytest

from rellm_cache.errors import RunError
from rellm_cache.utils.json_files import read_object


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
