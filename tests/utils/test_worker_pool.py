"""Worker pool: workers end with a parent that is killed; a killed worker's jobs are returned."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rellm_cache.utils.worker_pool import run_in_processes

WORKER = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import pytest

from rellm_cache.utils.worker_pool import begin_worker

def work(folder):
    (Path(folder) / "pid").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), begin_worker, (1,)) as pool:
        pool.submit(work, sys.argv[1]).result()
"""


def is_running(pid: int) -> bool:
    """Whether a process still does something; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_worker_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(WORKER)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    written = tmp_path / "pid"
    while parent.poll() is None and not (written.exists() and written.read_text()):
        time.sleep(0.1)
    worker = int(written.read_text())
    assert is_running(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 60
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(worker)


def work(number: int) -> int:
    """Double a number; a worker that gets 0 is killed."""
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_results_come_with_their_jobs_and_a_killed_worker_is_told() -> None:
    assert sorted(run_in_processes(work, [1, 2, 3], 2)) == [(1, 2), (2, 4), (3, 6)]
    running = run_in_processes(work, [0], 1)
    with pytest.raises(StopIteration) as end:
        next(running)
    assert end.value.value == [0]
