"""Loading of recipes: shipped ones and TOML files, `extends`, `--set`.

`schema` defines the fields of a recipe. A loaded recipe never changes.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rellm_cache.config.constraints import Section
from rellm_cache.config.plugins import ADAPTERS, ENCODERS, LOSSES
from rellm_cache.config.renamed_fields import renamed_fields
from rellm_cache.config.schema import AdapterConfig, EncoderConfig, LossesConfig, Recipe
from rellm_cache.config.toml import (
    Changes,
    Override,
    apply_override,
    build,
    merge_tables,
    parse_overrides,
    parse_toml,
    read_toml,
    write_toml,
)
from rellm_cache.errors import ConfigError

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def shipped_recipes() -> dict[str, str]:
    """Name -> TOML text of the recipes that come with the package."""
    folder = resources.files("rellm_cache.config.shipped")
    files = {f.name.removesuffix(".toml"): f for f in folder.iterdir() if f.name.endswith(".toml")}
    return {name: files[name].read_text("utf-8") for name in sorted(files)}


def load_recipe(
    recipe: str | Path | Recipe, overrides: Changes = (), base: str | Path = ""
) -> Recipe:
    """Load a shipped recipe by name, or any TOML file by path; a loaded recipe is changed.

    A recipe may extend another, as `extends = "re-llm"`: its own fields replace those of the other.
    `base` replaces the lowest recipe of that chain, so that a variant of the paper's models becomes
    a variant of other models. `overrides` are texts `key.key=value`, or a mapping of dotted keys to
    values; they are applied last and in order.

    Raises `ConfigError` if there is no such recipe, it is not TOML, a field has a new name or is
    unknown, or a value is of the wrong type or out of range.
    """
    changes = parse_overrides(overrides)
    if isinstance(recipe, Recipe):
        if not changes:
            return recipe
        source = f"recipe {recipe.name!r}"
        layers = [(source, parse_toml(to_toml(recipe), source))]
    else:
        layers = _read_layers(str(recipe), str(base))
    given: dict[str, Any] = {}
    for change in changes:
        apply_override(given, change)
    _refuse_old_names([*layers, ("--set", given)])
    table: dict[str, Any] = {}
    for _, layer in layers:
        table = merge_tables(_without_other_kinds(table, layer), layer)
    table = _without_other_kinds(table, given)
    _require_llm(table, given, layers[-1][0])
    for change in changes:
        _require_known_stream(table, given, change, layers[-1][0])
        apply_override(table, change)
    _require_plugins(table, layers[-1][0])
    return _build_recipe(table, layers[-1][0])


def _build_recipe(table: Mapping[str, Any], source: str) -> Recipe:
    """Build a recipe; every error names `source`, also those of sections and encoders."""
    try:
        return build(Recipe, table, source)
    except ConfigError as error:
        if source in str(error):
            raise
        raise ConfigError(f"{source}: {error}") from error


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML with every field; `load_recipe` reads an equal recipe from it."""
    return write_toml(recipe.to_table())


def identity_toml(recipe: Recipe) -> str:
    """Return the recipe as text for digests, without fields of `Section.later` at their default.

    So a new field of recipes changes no existing digest. The text is that of the first versions'
    `recipe.toml`, whose form must never change; `to_toml` writes the file.
    """
    table = recipe.to_table()
    for section in vars(recipe).values():
        for name in section.later if isinstance(section, Section) else ():
            if getattr(section, name) == getattr(type(section), name):
                table[section.table].pop(name, None)  # an adapter of a plug-in has fewer fields
    for stream, encoder in recipe.encoders.items():
        for name in encoder.later:
            if getattr(encoder, name) == getattr(type(encoder), name):
                del table["encoders"][stream][name]
    lines: list[str] = []
    _add_identity(lines, table, ())
    return "\n".join(lines).strip() + "\n"


def _add_identity(lines: list[str], table: Mapping[str, Any], path: tuple[str, ...]) -> None:
    if path:
        lines += ["", f"[{'.'.join(map(_identity_key, path))}]"]
    values = {k: v for k, v in table.items() if v is not None}
    for key, value in values.items():
        if not isinstance(value, dict):
            lines.append(f"{_identity_key(key)} = {_identity_value(value)}")
    for key, value in values.items():
        if isinstance(value, dict) and value:
            _add_identity(lines, value, (*path, key))


def _identity_key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else _identity_value(name)


def _identity_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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
        if not is_file and parent not in shipped_recipes() and not os.path.isfile(parent):
            raise ConfigError(
                f"{source}: extends = {parent!r}: no such recipe; shipped are "
                f"{', '.join(sorted(shipped_recipes()))}, or give the path of a TOML file"
            )
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


def _without_other_kinds(table: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the fields of encoders and the adapter that `layer` gives another `kind`.

    The adapter keeps `output_size` and how it mixes layers, an encoder its `pooling` and
    `speaker_normalization`: they are the same for all kinds. A `layer` of an encoder drops
    `layers`, and the other way round.
    """

    def kept(own: Any, new: Any, default: str, names: tuple[str, ...]) -> Any:
        changes = isinstance(own, dict) and isinstance(new, Mapping) and "kind" in new
        if changes and new["kind"] != own.get("kind", default):
            return {name: value for name, value in own.items() if name in names}
        return own

    table = dict(table)
    new = layer.get("encoders", {})
    if isinstance(new, Mapping) and isinstance(table.get("encoders"), dict):
        table["encoders"] = {
            name: _without_other_layers(
                kept(own, new.get(name), "", EncoderConfig.reading), new.get(name)
            )
            for name, own in table["encoders"].items()
        }
    if "adapter" in table:
        shared = tuple(n for n in AdapterConfig.shared if n not in ("kind", "options"))
        table["adapter"] = kept(table["adapter"], layer.get("adapter"), "conv", shared)
    return table


def _without_other_layers(own: Any, new: Any) -> Any:
    """Drop `layer` of an encoder that `new` gives `layers`, or `layers` where it gives `layer`."""
    if not isinstance(own, dict) or not isinstance(new, Mapping):
        return own
    dropped = {"layer": "layers", "layers": "layer"}
    gone = {dropped[name] for name in dropped.keys() & new.keys()} - new.keys()
    return {name: value for name, value in own.items() if name not in gone}


def _require_plugins(table: Mapping[str, Any], source: str) -> None:
    """Raise `ConfigError` if a plug-in is missing; it names the package that a run recorded."""
    recorded = _tables(table.get("plugins"))
    encoders, adapter, losses = (
        _tables(table.get(name)) for name in ("encoders", "adapter", "losses")
    )
    kinds = [(f"encoders.{name}.kind", e) for name, e in encoders.items()]
    used = [(ENCODERS, where, e.get("kind")) for where, e in kinds if isinstance(e, dict)]
    used.append((ADAPTERS, "adapter.kind", adapter.get("kind")))
    own = {item.name for item in dataclasses.fields(LossesConfig)}
    used += [(LOSSES, f"losses.{name}", name) for name in losses if name not in own]
    for registry, where, name in used:
        key = f"{registry.noun}.{name}"
        if isinstance(name, str):
            others = tuple(own) if registry is LOSSES else ()
            registry.find(name, f"{source}: {where}", recorded.get(key, ""), others)


def _tables(value: Any) -> dict[str, Any]:
    """A table as it is; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def _require_known_stream(
    table: dict[str, Any], given: Mapping[str, Any], change: Override, source: str
) -> None:
    """Raise `ConfigError` if `--set encoders.NAME…` names no encoder, old or new."""
    known = table.get("encoders", {})
    head, *rest = change.keys
    is_table = isinstance(known, dict)  # another value is an error of `build`
    if not is_table or head != "encoders" or not rest or rest[0] in known:
        return
    if len(rest) == 1 and change.value == "none":
        raise ConfigError(f"--set {change.text!r}: no such encoder; found {', '.join(known)}")
    if len(rest) > 1 and "kind" not in _tables(_tables(given["encoders"]).get(rest[0])):
        raise ConfigError(
            f"{source}: encoders: {rest[0]}: key 'kind' is missing; the recipe's own encoders are "
            f"{', '.join(known)}"
        )


def _require_llm(table: Mapping[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Raise `ConfigError` if `--set` changes the LLM of a recipe that has none."""
    changed = _tables(given.get("llm"))
    if changed and "model" not in changed and table.get("llm", "none") == "none":
        raise ConfigError(
            f"{source}: the recipe has no LLM, so llm.{next(iter(changed))} changes nothing; leave "
            "it out, choose a recipe with an LLM, or give this one an LLM with --set llm.model=…"
        )


def _refuse_old_names(tables: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Raise `ConfigError` that lists every renamed field of all tables at once."""
    messages = []
    for source, table in tables:
        if renamed := [f"\n  {old} -> {new}" for old, new in renamed_fields(table)]:
            what = "a field has a new name" if len(renamed) == 1 else "fields have new names"
            messages.append(f"{source}: {what}; write the one on the right:{''.join(renamed)}")
    if messages:
        raise ConfigError("\n".join(messages))
