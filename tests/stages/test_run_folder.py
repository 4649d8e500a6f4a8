"""A run folder belongs to one recipe."""

from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.config import Recipe
from rellm_cache.errors import RunError
from rellm_cache.stages.run_folder import begin_run


def test_a_folder_with_something_else_is_refused(quick: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match=r"run folder is not empty and holds no run"):
        begin_run(quick, tmp_path)


def test_a_run_of_another_recipe_is_refused(quick: Recipe, tmp_path: Path) -> None:
    begin_run(quick, tmp_path / "run")
    other = replace(quick, training=replace(quick.training, epochs=9))
    with pytest.raises(RunError, match=r"training\.epochs: wanted 9, found 2"):
        begin_run(other, tmp_path / "run")
