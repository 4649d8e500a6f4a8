"""Loading of recipes: shipped ones and TOML files, `extends`, `--set`.

`schema` defines the fields of a recipe. A loaded recipe never changes.
"""

import dataclasses
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rellm_cache.config.renamed_fields import renamed_fields
from rellm_cache.config.schema import Recipe
from rellm_cache.config.toml import (
    apply_override,
    build,
    merge_tables,
    parse_toml,
    read_toml,
    write_toml,
)
from rellm_cache.errors import ConfigError


def shipped_recipes() -> dict[str, str]:
    """Name -> TOML text of the recipes that come with the package."""
    folder = resources.files("rellm_cache.config.shipped")
    files = {f.name.removesuffix(".toml"): f for f in folder.iterdir() if f.name.endswith(".toml")}
    return {name: files[name].read_text("utf-8") for name in sorted(files)}


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), base: str = "") -> Recipe:
    """Load a shipped recipe by name, or any TOML file by path.

    A recipe may extend another, as `extends = "re-llm"`: its own fields replace those of the other.
    `base` replaces the lowest recipe of that chain, so that a variant of the paper's models becomes
    a variant of other models. `overrides` are `key.key=value`, applied last and in order.

    Raises `ConfigError` if there is no such recipe, it is not TOML, a field has a new name or is
    unknown, or a value is of the wrong type or out of range.
    """
    layers = _read_layers(name_or_path, base)
    given: dict[str, Any] = {}
    for override in overrides:
        apply_override(given, override)
    _refuse_old_names([*layers, ("--set", given)])
    table: dict[str, Any] = {}
    for _, layer in layers:
        table = merge_tables(table, layer)
    for override in overrides:
        _require_known_stream(table, override)
        apply_override(table, override)
    return build(Recipe, table, layers[-1][0])


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML with every field; `load_recipe` reads an equal recipe from it."""
    return write_toml(dataclasses.asdict(recipe))


def _read_layers(
    name_or_path: str, base: str, above: tuple[str, ...] = ()
) -> list[tuple[str, dict[str, Any]]]:
    """Return (name for messages, table) of a recipe and all that it extends, the lowest first."""
    table, source, folder = _read_table(name_or_path)
    parent = table.pop("extends", "")
    if not isinstance(parent, str):
        raise ConfigError(f"{source}: extends = {parent!r}: expected the name or path of a recipe")
    if source in above:
        raise ConfigError(f"{source}: extends itself, by way of {', '.join(above)}")
    if parent:
        beside = folder / parent
        is_file = parent not in shipped_recipes() and os.path.isfile(beside)
        below = str(beside) if is_file else parent
        return [*_read_layers(below, base, (*above, source)), (source, table)]
    if base not in ("", name_or_path):
        return _read_layers(base, "", (*above, source))
    return [(source, table)]


def _read_table(name_or_path: str) -> tuple[dict[str, Any], str, Path]:
    """Return a recipe's own table, its name for messages, and its folder."""
    shipped = shipped_recipes()
    path = Path(name_or_path)
    if name_or_path in shipped:
        source = f"recipe {name_or_path!r}"
        return parse_toml(shipped[name_or_path], source), source, path.parent
    if os.path.isfile(path):  # unlike `Path.is_file`, false for a name that is too long
        return read_toml(path), str(path), path.parent
    raise ConfigError(
        f"{name_or_path}: no such recipe; shipped are {', '.join(sorted(shipped))}, "
        "or give the path of a TOML file"
    )


def _require_known_stream(table: dict[str, Any], override: str) -> None:
    """Raise `ConfigError` if `--set encoders.NAME=none` names no encoder of the recipe."""
    key, _, value = override.partition("=")
    name = key.strip().removeprefix("encoders.")
    known = table.get("encoders", {})
    # A value that is no table is an error of `build`.
    is_table = isinstance(known, dict)
    if is_table and name != key.strip() and value.strip() == "none" and name not in known:
        raise ConfigError(f"--set {override!r}: no such encoder; found {', '.join(known)}")


def _refuse_old_names(tables: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Raise `ConfigError` that lists every renamed field of all tables at once."""
    messages = []
    for source, table in tables:
        if renamed := [f"\n  {old} -> {new}" for old, new in renamed_fields(table)]:
            what = "a field has a new name" if len(renamed) == 1 else "fields have new names"
            messages.append(f"{source}: {what}; write the one on the right:{''.join(renamed)}")
    if messages:
        raise ConfigError("\n".join(messages))
