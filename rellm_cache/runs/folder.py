"""Run folder of one recipe and one set of data; any other recipe or data is refused."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.config.specs import CachedSpec
from rellm_cache.errors import RunError
from rellm_cache.runs.publish import is_published
from rellm_cache.runs.weights import RECIPE, run_recipe
from rellm_cache.utils.atomic_files import is_temporary, update_text, write_text
from rellm_cache.utils.checksums import RESULTS, SUMS, recorded, require_intact
from rellm_cache.utils.json_files import read_utf8
from rellm_cache.utils.litter import is_litter

CHECKPOINTS, METRICS = "checkpoints", "metrics.jsonl"
TENSORBOARD, WANDB, TRACKER = "tensorboard", "wandb", "tracker.json"  # of `training.tracker`
DATA = "data.sha256"  # see `data_digest`


def create_run_folder(recipe: Recipe, out: Path) -> None:
    """Create a run folder; `RunError` if it contains something else than a run of this recipe."""
    if not out.exists() or all(map(_is_left_over, out.iterdir())):
        out.mkdir(parents=True, exist_ok=True)
        with recorded(out, RECIPE):
            write_text(out / RECIPE, to_toml(recipe))
        return
    if not (out / RECIPE).is_file():
        raise RunError(
            f"{out}: the run folder is not empty and is no run ({RECIPE} is missing); choose "
            "another --out"
        )
    if is_published(out):
        raise RunError(
            f"{out}: is a published folder, and {SUMS} would no longer be right; choose another "
            "--out"
        )
    require_same_recipe(recipe, out)


def record_recipe(recipe: Recipe, out: Path) -> None:
    """Write the recipe of a run, unless the file holds it: another form of TOML is no change."""
    if run_recipe(out) != recipe:
        write_text(out / RECIPE, to_toml(recipe))


@contextmanager
def emptied_on_error(out: Path) -> Iterator[None]:
    """Remove what a call wrote into a new run folder if it fails before its first result."""
    new = not out.exists() or all(map(_is_left_over, out.iterdir()))
    try:
        yield
    except Exception:  # any error, raised again; after an interrupt the run is to be continued
        if new and not (out / CHECKPOINTS).exists() and not (out / METRICS).exists():
            for name in (RECIPE, DATA, RESULTS, TRACKER):
                (out / name).unlink(missing_ok=True)
            for name in (TENSORBOARD, WANDB):
                shutil.rmtree(out / name, ignore_errors=True)
        raise


def _is_left_over(path: Path) -> bool:
    return is_temporary(path) or is_litter(path)


def require_same_recipe(recipe: Recipe, out: Path) -> None:
    """Raise `RunError` if the recipe of a run folder differs."""
    differing = recipe_differences(recipe, run_recipe(out))
    if differing:
        raise RunError(
            f"{out}: the run folder is not empty: it holds a run of another recipe "
            f"({'; '.join(differing)}); choose another --out, or give the same recipe to continue"
        )


def record_data(digest: str, out: Path) -> None:
    """Record the `data_digest` of a run; `RunError` if it was trained on other data."""
    require_same_data(digest, out)
    with recorded(out, DATA):
        update_text(out / DATA, f"{digest}\n")


def require_same_data(digest: str, out: Path) -> None:
    """Raise `RunError` if a run has checkpoints trained on data with another digest."""
    require_intact(out / DATA, "restore it")
    begun = any((out / CHECKPOINTS).glob("step-*")) and (out / DATA).is_file()
    if begun and read_utf8(out / DATA, RunError, "restore it").strip() != digest:
        raise RunError(
            f"{out}: this run was trained on other data than the manifest and the cache hold now "
            f"({DATA} has another digest); give the same data, or choose another --out"
        )


def recipe_differences(wanted: Recipe, found: Recipe) -> list[str]:
    """Fields in which two recipes differ, as readable text.

    A run pins the weights of its encoders. Weights that `wanted` does not set are not compared.
    """
    differences: list[str] = []

    def compare(a: Any, b: Any, path: str) -> None:
        if isinstance(a, CachedSpec) and isinstance(b, CachedSpec):
            asked: Any = (
                a if b.weights_sha256 else dataclasses.replace(cast("Any", a), weights_sha256="")
            )
            differences.extend(f"{path}.{text}" for text in asked.differences(b))
            if isinstance(a, EncoderConfig) and isinstance(b, EncoderConfig):
                for name in EncoderConfig.reading:
                    compare(getattr(a, name), getattr(b, name), f"{path}.{name}")
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
