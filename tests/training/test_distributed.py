"""Killed training runs, and runs of two processes; forked, so that imports are shared."""

import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from rellm_cache.config.schema import Recipe
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def fork(work: Callable[[], object], log: Path, **environment: str) -> int:
    """Begin `work` in a child with its standard error in a file; its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ.update(environment)
        torch.set_num_threads(1)  # threads of the parent's pool are not here
        AcceleratorState._reset_state(reset_partial_state=True)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


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


def kill_after(pids: list[int], run: Path, rows: int, delay: float) -> bool:
    """Kill children some time after a run's metrics have so many rows; whether they were alive."""
    waiting = dict.fromkeys(pids)
    while waiting and sum(1 for _ in read_metrics(run)) < rows:
        for pid in list(waiting):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del waiting[pid]
        time.sleep(0.005)
    time.sleep(delay)
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in waiting]
    return -signal.SIGKILL in codes


def rows(run: Path) -> list[dict[str, Any]]:
    """Metrics without times."""
    times = ("seconds", "waited")
    return [{k: v for k, v in row.items() if k not in times} for row in read_metrics(run)]


def assert_same_run(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    first, second = (load_file(run / "adapter.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def heads(quick: Recipe) -> Recipe:
    """No LLM, dropout, a checkpoint after every step."""
    return replace(
        quick,
        adapter=replace(quick.adapter, dropout=0.2, output_size=32),
        losses=replace(quick.losses, response_lm=0.0, emotion_lm=0.0),
        training=replace(quick.training, epochs=4, checkpoint_minutes=0.0),
    )


def test_killed_at_random_it_ends_with_the_same_bits(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    finish([fork(lambda: train(heads, corpus, cache, tmp_path / "whole"), log)], log)
    pieces = tmp_path / "pieces"
    moments = random.Random(1)
    kills = 0
    for count in (0, 3, 9, 15):  # of 21 rows
        pid = fork(lambda: train(heads, corpus, cache, pieces), log)
        kills += kill_after([pid], pieces, count, moments.uniform(0, 0.03))
    assert kills >= 3
    finish([fork(lambda: train(heads, corpus, cache, pieces), log)], log)
    assert_same_run(tmp_path / "whole", pieces)


def test_two_processes_train_as_one(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    # Seven clips: steps of three, three and one, which leaves the second process without any.
    training = replace(quick.training, batch_size=1, gradient_accumulation=3, learning_rate=1e-3)
    recipe = replace(quick, training=training)
    log = tmp_path / "log"
    one, two = tmp_path / "one", tmp_path / "two"
    finish([fork(lambda: train(recipe, corpus, cache, one), log)], log)
    finish(fork_world(lambda: train(recipe, corpus, cache, two), 2, log), log)
    assert len(rows(one)) == len(rows(two)) == 2 * 3 + 3
    for single, shared in zip(rows(one), rows(two), strict=True):
        assert single.keys() == shared.keys()
        assert single.pop("validation", {}) == pytest.approx(
            shared.pop("validation", {}), rel=1e-5, abs=1e-5
        )
        assert single == pytest.approx(shared, rel=1e-5, abs=1e-5)


def test_two_processes_go_on_with_random_states_of_their_own(
    corpus: Path, cache: Path, heads: Recipe, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    finish(fork_world(lambda: train(heads, corpus, cache, whole), 2, log), log)
    killed = kill_after(
        fork_world(lambda: train(heads, corpus, cache, pieces), 2, log), pieces, 9, 0
    )
    assert killed
    (*_, last) = sorted((pieces / "checkpoints").glob("step-*"))
    states = torch.load(last / "state.pt", weights_only=True)["processes"]["cpu"]
    assert len(states) == 2
    assert not torch.equal(*states)
    finish(fork_world(lambda: train(heads, corpus, cache, pieces), 2, log), log)
    assert_same_run(whole, pieces)
