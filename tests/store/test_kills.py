"""SIGKILL at every step of prune, compact and repair: nothing that was committed is lost."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from rellm_cache.store.format import list_parts, lost_path
from rellm_cache.store.maintenance.compact import compact_store, prune_store
from rellm_cache.store.maintenance.repair import repair_store
from rellm_cache.store.maintenance.verify import check_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils.console import silent

Clips = dict[str, np.ndarray]
Write = Callable[..., FeatureStore]
Content = Callable[[Path], dict[str, tuple[bytes, bytes]]]


# Kills itself before the Nth change of the file system, for every N until the work is done. Of the
# changes inside a folder that no reader sees, every 100th counts.
KILLED = """
import importlib, os, shutil, signal, sys
from pathlib import Path
from rellm_cache.utils.console import silent

module, name, template, work = sys.argv[1:]
function = getattr(importlib.import_module(module), name)
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}

def is_hidden(path):
    # Inside a folder under .writing/; removal of a tree names its files alone.
    path = str(path)
    return not path.startswith("/") or path.partition("/.writing/")[2].count("/") > 0

def run(path, last):
    steps = hidden = 0
    def hook(event, arguments):
        nonlocal steps, hidden
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (event in CHANGES or writes):
            return
        if all(is_hidden(path) for path in arguments[: 1 + (event == "os.rename")]):
            hidden += 1
            if hidden % 100:
                return
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    function(path, silent)

for last in range(1, 1000):
    copy = Path(work) / f"{last:03d}" / Path(template).name
    shutil.copytree(template, copy)
    child = os.fork()
    if not child:
        run(copy, last)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(last)
"""


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder in memory if possible, because many small files are written and removed."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def killed_everywhere(function: Callable[..., Any], store: Path, work: Path) -> list[Path]:
    """Copies of a store, each from a process killed at another step."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, function.__module__, function.__name__, store, work],
        capture_output=True,
        text=True,
        check=True,
    )
    copies = sorted(path for path in work.glob("*/prosody-*") if path.is_dir())
    assert len(copies) == int(done.stdout) > 10
    return copies


@pytest.fixture
def pair(write: Write, clips: Clips) -> Path:
    """Two small parts that share a clip."""
    write({"a": clips["clip/00"], "b": clips["clip/01"]}, digest=0)
    return write({"a": clips["clip/02"], "c": clips["clip/03"]}, digest=1).path


@pytest.mark.parametrize("function", [compact_store, prune_store])
def test_a_kill_at_any_step_loses_nothing(
    pair: Path, function: Callable[..., Any], work: Path, content: Content
) -> None:
    before = content(pair)
    copies = killed_everywhere(function, pair, work)
    for copy in copies:
        assert content(copy) == before
    for copy in copies[::3]:
        function(copy, silent)
        assert content(copy) == before
        assert check_store(copy, silent).is_intact


def test_a_kill_at_any_step_of_a_repair_loses_nothing(pair: Path, work: Path) -> None:
    file = list_parts(pair)[1] / "frames/c/0/0"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    (list_parts(pair)[0] / "frames/zarr.json").write_text("{}")
    for copy in killed_everywhere(repair_store, pair, work)[::2]:
        repair_store(copy, silent)
        after = FeatureStore(copy)
        assert set(after.ids) == {"b", "c"}  # the older audio of `a` does not show again
        assert check_store(copy, silent).is_intact
        assert '"id": "a"' in lost_path(copy).read_text()
        for key in after.ids:
            after.verified_frames(key)
