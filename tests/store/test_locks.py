"""Locks: paths of live processes stay, those of dead ones are removed, whatever their age."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rellm_cache.errors import StoreError
from rellm_cache.store.locks import maintenance_lock, remove_own_stale, remove_stale, with_hostname
from rellm_cache.utils.locks import hold_lock

WRITE = """
import sys, time
from pathlib import Path
from rellm_cache.utils.locks import hold_lock
folder = Path(sys.argv[1])
with hold_lock(folder):
    folder.mkdir()
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


def leftover(writing: Path, name: str) -> Path:
    folder = writing / name
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text("{}")
    return folder


def test_paths_of_dead_processes_are_removed(tmp_path: Path) -> None:
    writing = tmp_path / ".writing"
    live, dead = writing / "live-1", leftover(writing, "dead-1")
    arguments = [sys.executable, "-c", WRITE, str(live)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.utime(live, (0, 0))  # however old it looks
        assert remove_stale(tmp_path) == ([dead], [live])
        assert (live / "half").exists()
        process.send_signal(signal.SIGKILL)
    assert remove_stale(tmp_path) == ([live], [])
    assert not writing.exists()


def test_a_writer_removes_only_paths_of_its_own_machine(tmp_path: Path) -> None:
    writing = tmp_path / ".writing"
    dead = leftover(writing, with_hostname("dead-1"))
    lock = (
        writing / f"{with_hostname('late-1')}.lock"
    )  # killed between the rename and the lock's end
    lock.touch()
    others = [leftover(writing, "dead-2"), leftover(writing, "dead-3@another-machine")]
    live = writing / with_hostname("live-1")
    with hold_lock(live):
        live.mkdir()
        remove_own_stale(tmp_path)
        assert not dead.exists()
        assert not lock.exists()
        assert all(path.exists() for path in (*others, live))
    remove_own_stale(tmp_path / "nowhere")


def test_a_released_lock_leaves_no_files(tmp_path: Path) -> None:
    temporary = tmp_path / ".writing" / "store-1"
    with hold_lock(temporary):
        temporary.mkdir()
        assert remove_stale(tmp_path) == ([], [temporary])
        temporary.rmdir()
    assert list(tmp_path.iterdir()) == []


def test_only_one_process_can_maintain_a_store(tmp_path: Path) -> None:
    with (
        maintenance_lock(tmp_path / "store"),
        pytest.raises(StoreError, match="another `rellm cache` command is working"),
        maintenance_lock(tmp_path / "store"),
    ):
        pass
    with maintenance_lock(tmp_path / "store"), maintenance_lock(tmp_path / "other"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_removed_lock_file_is_made_again(tmp_path: Path) -> None:
    """A waiting process must not lock a file that its last holder removed."""
    temporary = tmp_path / ".writing" / "store-1"
    with hold_lock(temporary):
        lock = temporary.with_name("store-1.lock")
        lock.unlink()
        with hold_lock(temporary):
            assert lock.exists()
            assert remove_stale(tmp_path) == ([], [temporary])
