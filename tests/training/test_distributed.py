"""Killed training runs, and runs of two processes; forked, so that imports are shared."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from training_processes import assert_same_run, finish, fork, fork_world, metric_rows

from rellm_cache.config.schema import Recipe
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


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


@pytest.mark.parametrize(("gradients", "difference"), [("fp32", 1e-5), ("int8", 2e-2)])
def test_two_processes_train_as_one(
    corpus: Path,
    cache: Path,
    quick: Recipe,
    tmp_path: Path,
    gradients: Literal["fp32", "int8"],
    difference: float,
) -> None:
    # Seven clips: steps of three, three and one, which leaves the second process without any.
    training = replace(
        quick.training,
        batch_size=1,
        gradient_accumulation=3,
        learning_rate=1e-3,
        gradient_dtype=gradients,
    )
    # A matrix is large enough for 8 bits.
    adapter = replace(quick.adapter, bottleneck=256)
    recipe = replace(quick, training=training, adapter=adapter)
    log = tmp_path / "log"
    one, two = tmp_path / "one", tmp_path / "two"
    finish([fork(lambda: train(recipe, corpus, cache, one), log)], log)
    finish(fork_world(lambda: train(recipe, corpus, cache, two), 2, log), log)
    assert len(metric_rows(one)) == len(metric_rows(two)) == 2 * 3 + 3
    for single, shared in zip(metric_rows(one), metric_rows(two), strict=True):
        assert single.keys() == shared.keys()
        assert single.pop("validation", {}) == pytest.approx(
            shared.pop("validation", {}), rel=difference, abs=difference
        )
        assert single == pytest.approx(shared, rel=difference, abs=difference)


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
