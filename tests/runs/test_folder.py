"""A run folder belongs to one recipe."""

from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.config.recipes import identity_toml, load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import RunError
from rellm_cache.runs.folder import create_run_folder, recipe_differences, record_recipe
from rellm_cache.runs.weights import run_recipe
from rellm_cache.utils.atomic_files import new_folder


def test_a_folder_with_something_else_is_refused(quick: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match=r"run folder is not empty and is no run"):
        create_run_folder(quick, tmp_path)


def test_files_of_the_operating_system_do_not_count(quick: Recipe, tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / "new"):
        folder.mkdir()
        (folder / ".DS_Store").touch()
        (folder / "._run").touch()
    create_run_folder(quick, tmp_path / "run")
    with new_folder(tmp_path / "new") as partial:
        (partial / "a").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_run_of_another_recipe_is_refused(quick: Recipe, tmp_path: Path) -> None:
    create_run_folder(quick, tmp_path / "run")
    other = replace(quick, training=replace(quick.training, epochs=9))
    with pytest.raises(RunError, match=r"training\.epochs: wanted 9, found 2"):
        create_run_folder(other, tmp_path / "run")


def test_the_precision_of_what_trains_is_part_of_a_recipe(quick: Recipe, tmp_path: Path) -> None:
    create_run_folder(quick, tmp_path / "run")
    other = replace(quick, training=replace(quick.training, param_dtype="bf16"))
    with pytest.raises(RunError, match=r"training\.param_dtype: wanted 'bf16', found 'fp32'"):
        create_run_folder(other, tmp_path / "run")


def test_encoders_differ_by_the_weights_that_both_pin_wherever_they_lie(quick: Recipe) -> None:
    def pinned(weights: str, model: str = "a/whisper") -> Recipe:
        speech = replace(quick.encoders["speech"], model=model, weights_sha256=weights)
        return replace(quick, encoders={**quick.encoders, "speech": speech})

    assert recipe_differences(pinned("1" * 64), pinned("1" * 64, "elsewhere/whisper")) == []
    assert recipe_differences(pinned(""), pinned("1" * 64)) == []
    assert recipe_differences(pinned("1" * 64), pinned("")) == []
    (found,) = recipe_differences(pinned("1" * 64), pinned("2" * 64))
    assert found.startswith("encoders.speech.weights_sha256: wanted '1111")
    (found,) = recipe_differences(pinned(""), pinned("1" * 64, "elsewhere/whisper"))
    assert found.startswith("encoders.speech.model: wanted 'a/whisper'")


def test_a_recipe_in_another_form_of_toml_stays(tmp_path: Path) -> None:
    recipe = load_recipe("heads")
    (tmp_path / "recipe.toml").write_text(identity_toml(recipe), "utf-8")  # as older versions
    record_recipe(recipe, tmp_path)
    assert (tmp_path / "recipe.toml").read_text("utf-8") == identity_toml(recipe)
    record_recipe(load_recipe("heads", ["seed=9"]), tmp_path)
    assert run_recipe(tmp_path).seed == 9
