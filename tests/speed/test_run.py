"""Measurement in a process of its own: its result, its errors, and its end."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.speed import run as module
from rellm_cache.speed.run import BenchSettings, bench


def test_an_error_of_the_other_process_is_raised_here(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe.llm is not None
    missing = replace(recipe, llm=replace(recipe.llm, model=str(tmp_path / "nothing")))
    with pytest.raises(ConfigError, match="no such folder"):
        bench(missing, BenchSettings())


@pytest.mark.parametrize(
    ("name", "text"), [("emobox", "without steps"), ("text-llm", "nothing to train")]
)
def test_a_recipe_without_steps_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        bench(load_recipe(name), BenchSettings())


def end_at_once(sending: Any, recipe: Recipe, settings: BenchSettings, end: float) -> None:
    os._exit(9)


def test_a_process_that_is_killed_is_an_error(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_send_report", end_at_once)
    with pytest.raises(RellmError, match="recipe 'tiny': the measuring process ended"):
        bench(recipe, BenchSettings())


class Sent:
    """The end of a pipe that keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def send(self, value: object) -> None:
        self.values.append(value)


def fails(error: Exception) -> Callable[..., None]:
    def measure(*_: object) -> None:
        raise error

    return measure


@pytest.mark.parametrize("memory", [None, 6.0])
def test_too_little_memory_is_told_with_what_saves_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, memory: float | None
) -> None:
    from rellm_cache.speed import measure
    from rellm_cache.utils import worker_pool

    monkeypatch.setattr(worker_pool, "end_with_parent", lambda: None)
    monkeypatch.setattr(measure, "measure", fails(torch.OutOfMemoryError("CUDA out of memory")))
    sent: Any = Sent()
    module._send_report(sent, recipe, BenchSettings(memory_gb=memory), 0.0)
    (error,) = sent.values
    assert isinstance(error, RellmError)
    assert ("6 GB are" if memory else "the memory is") + " too small" in str(error)
    assert "rellm plan --gpu-gb" in str(error)


def test_other_errors_are_not_hidden(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from rellm_cache.speed import measure
    from rellm_cache.utils import worker_pool

    monkeypatch.setattr(worker_pool, "end_with_parent", lambda: None)
    monkeypatch.setattr(measure, "measure", fails(RuntimeError("a bug")))
    sent: Any = Sent()
    with pytest.raises(RuntimeError, match="a bug"):
        module._send_report(sent, recipe, BenchSettings(), 0.0)
