"""Training in forked processes, which share the imports of the test, and comparison of runs."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from rellm_cache.training.loop import read_metrics


def fork(work: Callable[[], object], log: Path, **environment: str) -> int:
    """Begin training in a child with its output in a file; its process id."""

    def train() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        work()

    return processes.fork(train, log, **environment)


def fork_world(work: Callable[[], object], size: int, log: Path) -> list[int]:
    """Begin `work` in so many processes that find one another, as a launcher does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",  # as torchrun sets it
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [fork(work, log, RANK=str(r), LOCAL_RANK=str(r), **common) for r in range(size)]


def finish(pids: list[int], log: Path) -> None:
    """Wait for children; what went wrong in one is the failure."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * len(pids), log.read_text()


def metric_rows(run: Path) -> list[dict[str, Any]]:
    """Metrics without times."""
    times = ("seconds", "waited")
    return [{k: v for k, v in row.items() if k not in times} for row in read_metrics(run)]


def assert_same_run(one: Path, other: Path) -> None:
    assert metric_rows(one) == metric_rows(other)
    first, second = (load_file(run / "adapter.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
