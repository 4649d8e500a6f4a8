"""A new model folder: whole or not there, and one writer at a time."""

import json
from pathlib import Path

import pytest

from rellm_cache.errors import RellmError
from rellm_cache.foreign.folder import new_folder


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(RellmError, match=r"out: 1000000\.1 GB needed, .* GB free; free some space"),
        new_folder(tmp_path / "out", 10**15),
    ):
        pytest.fail("began to write")
    assert list(tmp_path.iterdir()) == []


def test_two_imports_do_not_meet(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", 0) as first:
        (first / "config.json").write_text(json.dumps({}))
        with (
            pytest.raises(RellmError, match="out: another import is writing it"),
            new_folder(tmp_path / "out", 0),
        ):
            pytest.fail("began to write")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["config.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_import_cleans_up(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "out", 0) as partial:
            (partial / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
