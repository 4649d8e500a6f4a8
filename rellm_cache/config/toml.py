"""TOML tables and frozen dataclasses. In: a nested table. Out: a dataclass, checked field by field.

Unknown keys are refused by name with the nearest known one, values of a wrong type with the right
one. The other way: a nested dict, written as TOML that reads back equal.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rellm_cache.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in a nested table, in place; the value is TOML, a bare word is a string.

    A table that a recipe may lack is left out by `none`, as in `llm=none`, `encoders.emotion=none`.
    """
    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise ConfigError(f"--set {override!r}: expected key=value, as in training.epochs=3")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a table")
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value


def lay_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested tables as one: what `over` says wins, what it leaves open is as in `under`."""
    laid = dict(under)
    for key, value in over.items():
        below = laid.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = lay_over(below, value)
        laid[key] = value
    return laid


def build(kind: type[Made], table: Mapping[str, Any], where: str) -> Made:
    """Make the frozen dataclass `kind` from a TOML table, refusing unknown keys and wrong types."""
    hints = typing.get_type_hints(kind)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(hints)}"
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}")
    for item in dataclasses.fields(kind):
        required = item.default is dataclasses.MISSING
        if required and item.default_factory is dataclasses.MISSING and item.name not in table:
            raise ConfigError(f"{where}: key {item.name!r} is missing")
    return kind(**{k: convert(hints[k], v, f"{where}: {k}") for k, v in table.items()})


def convert(hint: Any, value: Any, where: str) -> Any:
    """Check one TOML value against a field's type; tables become dataclasses, arrays tuples."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        members = [a for a in typing.get_args(hint) if a is not type(None)]
        if value == "none" and len(members) < len(typing.get_args(hint)):
            return None
        if len(members) > 1:
            return _convert_to_one(members, value, where)
        hint = members[0]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: found {value!r}, expected a table")
        return build(hint, value, where)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: found {value!r}, expected a table")
        kind = typing.get_args(hint)[1]
        return {k: convert(kind, v, f"{where}: {k}") for k, v in value.items() if v != "none"}
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            known = ", ".join(repr(a) for a in typing.get_args(hint))
            raise ConfigError(f"{where} = {value!r}: expected one of {known}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} = {value!r}: expected an array")
        return tuple(convert(typing.get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where} = {value!r}: expected {hint.__name__}")
    return value


def _convert_to_one(members: Sequence[Any], value: Any, where: str) -> Any:
    """The value as the first of several types that it fits; an array is meant as an array."""
    array = isinstance(value, list)
    members = [m for m in members if (typing.get_origin(m) is tuple) == array] or members
    if len(members) == 1:
        return convert(members[0], value, where)
    expected = []
    for member in members:
        try:
            return convert(member, value, where)
        except ConfigError as error:
            expected.append(str(error).rpartition("expected ")[2])
    raise ConfigError(f"{where} = {value!r}: expected {' or '.join(expected)}")


def write_toml(table: Mapping[str, Any]) -> str:
    """A nested table as TOML; None values are left out."""
    lines: list[str] = []
    _write_table(lines, table, ())
    return "\n".join(lines).strip() + "\n"


def _write_table(lines: list[str], table: Mapping[str, Any], path: tuple[str, ...]) -> None:
    if path:
        lines += ["", f"[{'.'.join(path)}]"]
    values = {k: v for k, v in table.items() if v is not None}
    # JSON's strings, numbers, booleans and arrays are TOML's.
    lines += [
        f"{k} = {json.dumps(v, ensure_ascii=False)}"
        for k, v in values.items()
        if not isinstance(v, dict)
    ]
    for key, value in values.items():
        if isinstance(value, dict):
            _write_table(lines, value, (*path, key))
