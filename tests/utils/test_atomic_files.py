"""Atomic writes: a file has either the old or the new content, even after errors."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rellm_cache.errors import RellmError
from rellm_cache.utils import atomic_files
from rellm_cache.utils.atomic_files import (
    new_folder,
    replaced_folder,
    update_text,
    write_csv,
    write_file,
    write_json,
    write_lines,
    write_text,
)

# Replaces a folder, killed before the Nth change of the file system, for every N until it is done.
KILLED = """
import os, signal, sys
from pathlib import Path
from rellm_cache.utils.atomic_files import replaced_folder

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


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_the_formats_of_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_json(path, {"a": "é"})
    assert path.read_text("utf-8") == '{\n  "a": "\\u00e9"\n}\n'
    write_json(path, {"a": "é"}, ensure_ascii=False)
    assert path.read_text("utf-8") == '{\n  "a": "é"\n}\n'
    write_lines(path, ({"n": n} for n in range(2)))
    assert path.read_text("utf-8") == '{"n": 0}\n{"n": 1}\n'
    write_csv(path, ["a", "b"], [[1, "x,y"]])
    assert path.read_text("utf-8") == 'a,b\n1,"x,y"\n'
    assert names(path.parent) == ["file"]


def test_an_equal_text_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert update_text(path, "one")
    before = path.stat().st_mtime_ns
    assert not update_text(path, "one")
    assert path.stat().st_mtime_ns == before
    assert update_text(path, "two")


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a.txt", []

    def sync(handle: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{handle}"))
        synced.append((place.name.startswith(".a.txt."), place == tmp_path, path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write_text(path, "one")
    assert synced == [(True, False, False), (False, True, True)]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def write_while_another_does(temporary: Path) -> None:
        temporary.write_text("first")
        write_text(path, "second")

    write_file(path, write_while_another_does)
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a.txt"]


def test_old_temporary_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f".{name}.partial" for name in ("a.txt.1", "a.txt.2", "b.txt.1"))
    for left in (old, new, other):
        left.write_text("half")
    for left in (old, other):
        os.utime(left, (0, time.time() - atomic_files.LEFTOVER_SECONDS - 60))
    write_text(tmp_path / "a.txt", "whole")
    assert names(tmp_path) == [new.name, other.name, "a.txt"]


def test_too_little_space_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(RellmError, match=r"out: 1000000\.1 GB needed, .* GB free; free some space"),
        new_folder(tmp_path / "out", 10**15),
    ):
        pytest.fail("began to write")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", 0) as first:
        (first / "config.json").write_text(json.dumps({}))
        with (
            pytest.raises(RellmError, match=r"out: process \d+ on .*, is writing it"),
            new_folder(tmp_path / "out", 0),
        ):
            pytest.fail("began to write")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["config.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_write_of_a_folder_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "out", 0) as partial:
            (partial / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_complete_after_a_kill_at_any_step(tmp_path: Path) -> None:
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


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("old")
    with pytest.raises(RellmError, match="GB needed"), replaced_folder(out, 10**15):
        pytest.fail("began to write")
    with pytest.raises(RellmError, match="could not be written"), replaced_folder(out, 0) as new:
        (new / "no such folder" / "README.md").write_text("new")
    assert contents(out) == {"README.md": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
