"""Measurement of a recipe: which LLM is taken, how many clips, and errors."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.speed import measure as module
from rellm_cache.speed.measure import measure
from rellm_cache.speed.peak import Peak
from rellm_cache.speed.run import BenchSettings

FEW = BenchSettings(most_steps=1)


def measured(recipe: Recipe, settings: BenchSettings = FEW) -> module.BenchReport:
    return measure(recipe, settings, time.monotonic() + 600)


def with_llm(recipe: Recipe, folder: Path) -> Recipe:
    assert recipe.llm is not None
    return replace(recipe, llm=replace(recipe.llm, model=str(folder)))


def test_the_llm_of_the_recipe_is_taken_where_it_is(recipe: Recipe) -> None:
    found = measured(recipe)
    assert (found.weights, found.tokenizer) == ("its own", "its own")
    assert (found.clips, found.recipe_clips, found.micro_batches) == (2, 2, 1)
    assert 0 < found.start_bytes <= found.resident_bytes
    assert (found.device_bytes, found.reserved_bytes, found.cap_bytes) == (0, 0, None)
    assert found.mfu > 0
    assert found.epoch_seconds == pytest.approx(found.seconds / 2 * 3861)


def test_random_weights_are_as_large(recipe: Recipe) -> None:
    found, own = measured(recipe, replace(FEW, random=True)), measured(recipe)
    assert (found.weights, found.tokenizer) == ("random", "its own")
    assert (found.tokens, found.operations) == (own.tokens, own.operations)


def test_a_folder_without_weights_gives_the_shape(
    recipe: Recipe, llm_folder: Path, tmp_path: Path
) -> None:
    shutil.copyfile(llm_folder / "config.json", tmp_path / "config.json")
    found = measured(with_llm(recipe, tmp_path))
    assert (found.weights, found.tokenizer) == ("random", "made")
    assert "RANDOM weights" in found.model


def test_an_llm_of_unknown_shape_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        measured(with_llm(recipe, tmp_path / "nothing"))


def test_a_damaged_llm_is_an_error_and_no_reason_for_random_weights(
    recipe: Recipe, llm_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(llm_folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ConfigError, match="not complete safetensors"):
        measured(with_llm(recipe, tmp_path))


def test_steps_that_would_take_too_long_have_fewer_clips(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_peak", lambda device, dtype: Peak(1.0, "a slow machine"))
    found = measured(recipe)
    assert (found.clips, found.recipe_clips) == (1, 2)
    assert "1 clip a step" in found.row("rellm bench")


def test_a_memory_limit_needs_a_gpu(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="--memory-gb 6 limits the memory of a GPU"):
        measured(recipe, BenchSettings(memory_gb=6))
