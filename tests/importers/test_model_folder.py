"""A new model folder: whole or not there, and one writer at a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rellm_cache.errors import RellmError
from rellm_cache.utils.atomic_folders import new_folder, replaced_folder

# Replaces a folder, killed before the Nth change of the file system, for every N until it is done.
KILLED = """
import os, signal, sys
from pathlib import Path
from rellm_cache.utils.atomic_folders import replaced_folder

def replace(out, last):
    steps = 0
    def hook(event, arguments):
        nonlocal steps
        steps += event in {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    with replaced_folder(out, 0) as partial:
        (partial / "README.md").write_text("new")
        (partial / "adapter.safetensors").write_text("new")

for last in range(1, 100):
    out = Path(sys.argv[1]) / f"{last:02d}" / "out"
    out.mkdir(parents=True)
    for name in ("README.md", "scores.json"):
        (out / name).write_text("old")
    child = os.fork()
    if not child:
        replace(out, last)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""
OLD = {"README.md": "old", "scores.json": "old"}
NEW = {"README.md": "new", "adapter.safetensors": "new"}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


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


def test_a_replaced_folder_is_whole_wherever_a_kill_falls(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=True)
    left = sorted(tmp_path.glob("*"))
    assert len(left) > 5
    found = []
    for place in left:
        out = place / "out"
        with pytest.raises(KeyboardInterrupt), replaced_folder(out, 0):
            raise KeyboardInterrupt  # the next call is cut short too, and has settled the place
        found.append(contents(out))
        assert [path.name for path in place.iterdir()] == ["out"]
    assert found[0] == OLD
    assert found[-1] == NEW
    assert all(content in (OLD, NEW) for content in found)


def test_what_cannot_be_replaced_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("old")
    with pytest.raises(RellmError, match="GB needed"), replaced_folder(out, 10**15):
        pytest.fail("began to write")
    with pytest.raises(RellmError, match="could not be written"), replaced_folder(out, 0) as new:
        (new / "no such folder" / "README.md").write_text("new")
    assert contents(out) == {"README.md": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
