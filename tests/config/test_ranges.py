"""Ranges of recipe fields: every number has one, and values outside it are refused by name."""

import dataclasses
import math
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.config.constraints import Range, check_fields, constraints_of
from rellm_cache.config.field_texts import table_of
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import HeadsConfig, LossesConfig, Recipe, TrainingConfig
from rellm_cache.config.toml import DERIVED, REST, write_toml
from rellm_cache.empathy.settings import EmpathySettings, make_settings
from rellm_cache.errors import ConfigError


def _tables(kind: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, kind
    for name, hint in typing.get_type_hints(kind).items():
        if (inner := table_of(hint)) is not None:
            name = "encoders.speech" if name == "encoders" else name
            yield from _tables(inner, f"{path}{name}.")


def _numbers(kind: Any) -> list[str]:
    """Names of the fields that hold a number or numbers."""
    hints, found = typing.get_type_hints(kind), []
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        members = {hint, *typing.get_args(hint)}
        members |= {inner for member in members for inner in typing.get_args(member)}
        if members & {int, float} and item.metadata not in (DERIVED, REST):
            found.append(item.name)
    return found


FIELDS = [(path, kind, name) for path, kind in _tables(Recipe) for name in _numbers(kind)]


@pytest.mark.parametrize(("path", "kind", "name"), FIELDS, ids=lambda value: str(value))
def test_every_number_of_a_recipe_has_a_range(
    recipe_file: Path, path: str, kind: Any, name: str
) -> None:
    constraint = constraints_of(kind).get(name)
    assert isinstance(constraint, Range)
    assert constraint.low is not None or constraint.above is not None
    needed = {"transcriber.model": "m"} if path == "transcriber." else {}
    for value in ("nan", -7, math.nan, math.inf, -math.inf, 10**400):
        with pytest.raises(ConfigError, match=name):
            load_recipe(str(recipe_file), {**needed, f"{path}{name}": value})


def test_the_fields_that_had_no_range_are_among_them() -> None:
    names = {name for _, _, name in FIELDS}
    assert names >= {"max_grad_norm", "learning_rate", "weight_decay", "warmup_steps", "seed"}
    assert names >= {"width", "bottleneck", "crop_frames", "answer_tokens", "example_tokens"}
    assert names >= {"bins", "class_weights", "micro_batch_tokens", "layer", "version", "top"}
    assert set(_numbers(EmpathySettings)) == constraints_of(EmpathySettings).keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.max_grad_norm=-1", "training.max_grad_norm = -1.0: expected more than 0"),
        ("training.max_grad_norm=0", "training.max_grad_norm = 0.0: expected more than 0"),
        ("training.learning_rate=2", "learning_rate = 2.0: expected at most 1 and more than 0"),
        ("training.warmup_steps=-5", "training.warmup_steps = -5: expected 0 or more"),
        ("seed=-1", "mine.toml: seed = -1: expected 0 to 4294967295"),
        ("adapter.width=0", "adapter.width = 0: expected 1 to 65536"),
        ("adapter.width=100000000", "adapter.width = 100000000: expected 1 to 65536"),
        ("qa.bins=[0.4, 1]", "qa.bins = .*: expected numbers, each more than 0 and less than 1"),
        ("training.learning_rate=nan", "learning_rate: found nan, expected .*finite number"),
    ],
)
def test_messages_name_field_value_and_range(recipe_file: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(recipe_file), [change])


def test_nan_is_refused_from_a_file_and_in_python(recipe_file: Path) -> None:
    recipe_file.write_text(recipe_file.read_text() + "\n[training]\nlearning_rate = nan\n")
    with pytest.raises(ConfigError, match=r"training: learning_rate: found nan, expected .*finite"):
        load_recipe(str(recipe_file))
    with pytest.raises(ConfigError, match=r"learning_rate = inf: expected"):
        TrainingConfig(learning_rate=math.inf)
    with pytest.raises(ConfigError, match=r"class_weights"):
        LossesConfig(class_weights=(1.0, math.nan))
    with pytest.raises(ConfigError, match=r"losses.mine = nan"):
        LossesConfig(extra={"mine": math.nan})
    check_fields("heads", HeadsConfig())


@pytest.mark.parametrize(
    "change", ["learning_rate=-1", "seed=-1", "level_weight=-1", "warmup=nan", "dropout=inf"]
)
def test_settings_of_empathy_scorers_have_ranges(change: str) -> None:
    with pytest.raises(ConfigError, match=change.partition("=")[0]):
        make_settings(None, [change])


def test_any_text_of_a_recipe_is_read_again(recipe_file: Path) -> None:
    for text in ("\x7f", "a\tb\n\x00\x1f", '"\\', "\u2028\x85", "\U0001f600", "'''"):
        recipe = load_recipe(str(recipe_file), {"name": text})
        assert tomllib.loads(to_toml(recipe))["name"] == text
        assert tomllib.loads(write_toml({text: {text: [text]}})) == {text: {text: [text]}}
    with pytest.raises(ConfigError, match="expected Unicode text"):
        load_recipe(str(recipe_file), {"name": "\udcff"})
