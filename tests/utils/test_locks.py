"""Locks of outputs: one process writes; the other hears who does; a dead one holds nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rellm_cache.errors import RellmError
from rellm_cache.utils.atomic_files import replaced_folder
from rellm_cache.utils.locks import hold_file, hold_folder, share_file

HOLD = """
import sys, time
from pathlib import Path
from rellm_cache.utils import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("name", ["hold_folder", "hold_file"])
def test_a_live_process_is_named_and_a_dead_one_forgotten(tmp_path: Path, name: str) -> None:
    out, hold = tmp_path / "out", {"hold_folder": hold_folder, "hold_file": hold_file}[name]
    arguments = [sys.executable, "-c", HOLD, name, str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        found = rf"out: process {process.pid} on {os.uname().nodename}, since .*, is writing it"
        with pytest.raises(RellmError, match=found), hold(out):
            pytest.fail("began to write")
        process.send_signal(signal.SIGKILL)
    with hold(out):
        pass
    assert [path.name for path in tmp_path.rglob("*") if path.name != "out"] == []


def test_a_new_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("old", "new", "written"):
        with hold_folder(tmp_path / name):
            if name == "written":
                (tmp_path / name / "a.txt").write_text("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "written"]


def test_what_a_killed_writer_left_is_removed_and_other_names_stay(tmp_path: Path) -> None:
    left = [tmp_path / name for name in (".out.partial", ".out.0a1b2c3d.partial")]
    others = [tmp_path / name for name in (".output.0a1b2c3d.partial", ".[o]ut.partial")]
    for folder in (*left, *others):
        (folder / "half").mkdir(parents=True)
    with replaced_folder(tmp_path / "out") as temporary:
        (temporary / "a.txt").write_text("a")
        assert not any(folder.exists() for folder in left)
        assert temporary.name not in (folder.name for folder in left)
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(p.name for p in others)}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_a_place_that_takes_no_files_is_an_error_and_not_a_loop() -> None:
    with pytest.raises(FileNotFoundError, match="/proc/"), hold_file(Path("/proc/nothing-is-here")):
        pytest.fail("held a lock that nobody could make")


def test_of_those_who_share_a_file_the_last_one_takes_it_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with share_file(out) as first:
        with share_file(out) as second:
            assert not second()
        with pytest.raises(RellmError, match=r"out: process .* is writing it"), hold_file(out):
            pytest.fail("began to write")
        assert first()
    with hold_file(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_refused_while_the_whole_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rellm_cache.utils.locks.PATIENCE_SECONDS", 0.0)
    with (
        hold_file(tmp_path / "out"),
        pytest.raises(RellmError, match=rf"out: process {os.getpid()} on .* is writing it; wait"),
        share_file(tmp_path / "out"),
    ):
        pytest.fail("began to write")
