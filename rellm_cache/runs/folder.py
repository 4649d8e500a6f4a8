"""Whose a run folder is. In: a recipe, data, a folder. Out: the folder, begun, or why not."""

import dataclasses
from pathlib import Path
from typing import Any, cast

from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.config.specs import CachedSpec
from rellm_cache.errors import RunError
from rellm_cache.runs.publish import SUMS, is_published
from rellm_cache.runs.weights import RECIPE
from rellm_cache.utils.atomic_files import is_temporary, write_text

CHECKPOINTS = "checkpoints"  # folder of an unfinished run's states
DATA = "data.sha256"  # of what is learnt from: see `data_digest`


def begin_run(recipe: Recipe, out: Path) -> None:
    """Make the run folder, or check that it holds a run of this very recipe.

    Raises:
        RunError: it holds something else, or what was published.
    """
    if not out.exists() or all(map(is_temporary, out.iterdir())):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RECIPE, to_toml(recipe))
        return
    if not (out / RECIPE).is_file():
        raise RunError(
            f"{out}: the run folder is not empty and holds no run ({RECIPE} is missing); choose "
            "another --out"
        )
    if is_published(out):
        raise RunError(
            f"{out}: is a published folder, whose {SUMS} would no longer hold; choose another --out"
        )
    require_recipe(recipe, out)


def require_recipe(recipe: Recipe, out: Path) -> None:
    """Raise `RunError` unless a run folder's recipe is this one."""
    differing = recipe_differences(recipe, load_recipe(str(out / RECIPE)))
    if differing:
        raise RunError(
            f"{out}: the run folder is not empty: it holds a run of another recipe "
            f"({'; '.join(differing)}); choose another --out, or give the same recipe to go on"
        )


def begin_data(learned: str, out: Path) -> None:
    """Note what a run learns from, or check that its checkpoints have learnt from just that.

    Args:
        learned: as `data_digest` gives it.

    Raises:
        RunError: there are checkpoints, and they learnt from something else.
    """
    require_data(learned, out)
    noted = f"{learned}\n"
    if not (out / DATA).is_file() or (out / DATA).read_text("utf-8") != noted:
        write_text(out / DATA, noted)


def require_data(learned: str, out: Path) -> None:
    """Raise `RunError` where checkpoints of a run folder learnt from something else.

    Of a run that was begun before this was noted, nothing is known.
    """
    begun = any((out / CHECKPOINTS).glob("step-*")) and (out / DATA).is_file()
    if begun and (out / DATA).read_text("utf-8").strip() != learned:
        raise RunError(
            f"{out}: this run was trained on other data than the manifest and the cache hold now "
            f"({DATA} has another digest); give what it was trained on, or choose another --out"
        )


def recipe_differences(wanted: Recipe, found: Recipe) -> list[str]:
    """Fields in which two recipes differ, as readable text.

    Specs of models differ as `CachedSpec.differences` says; a run pins their weights, so weights
    that one of the two leaves open are no difference.
    """
    differences: list[str] = []

    def compare(a: Any, b: Any, path: str) -> None:
        if isinstance(a, CachedSpec) and isinstance(b, CachedSpec):
            asked: Any = (
                a if b.weights_sha256 else dataclasses.replace(cast("Any", a), weights_sha256="")
            )
            differences.extend(f"{path}.{text}" for text in asked.differences(b))
            if isinstance(a, EncoderConfig) and isinstance(b, EncoderConfig):
                compare(a.pooling, b.pooling, f"{path}.pooling")
        elif isinstance(a, dict) and isinstance(b, dict) and [*a] == [*b]:
            for name in a:
                compare(a[name], b[name], f"{path}.{name}")
        elif isinstance(a, dict) and isinstance(b, dict):
            differences.append(f"{path}: wanted {', '.join(a)}, found {', '.join(b)}")
        elif dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
            for field in dataclasses.fields(a):
                name = f"{path}.{field.name}" if path else field.name
                compare(getattr(a, field.name), getattr(b, field.name), name)
        elif a != b:
            differences.append(f"{path}: wanted {a!r}, found {b!r}")

    compare(wanted, found, "")
    return differences
