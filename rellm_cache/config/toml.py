"""TOML: frozen dataclasses from tables, tables from `--set`, and TOML text from dicts.

The error for an unknown key names the nearest known key; for a wrong type, the right type.
"""

import dataclasses
import difflib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tomli_w

from rellm_cache.errors import ConfigError
from rellm_cache.utils.json_files import read_utf8

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

INTEGER_BITS = 63
# What TOML can hold of each type.
WRITABLE = {
    str: "Unicode text",
    int: f"an integer of {INTEGER_BITS} bits at most",
    float: "a finite number",
}
LARGE_INTEGER = re.compile("[+-]?[0-9]{19,99}")  # for a message about its size
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, from names that are not UTF-8
Built = TypeVar("Built", bound="DataclassInstance")

# Metadata of fields: one that no table holds, and a dict with all keys that are no fields.
DERIVED: Mapping[str, Any] = types.MappingProxyType({"derived": True})
REST: Mapping[str, Any] = types.MappingProxyType({"rest": True})


Changes = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Override:
    """One changed field: `--set key.key=value`, or an item of a mapping; `text` is for messages."""

    keys: tuple[str, ...]
    value: Any
    text: str


def parse_overrides(changes: Changes) -> list[Override]:
    """Parse texts `a.b=value`, or a mapping of dotted keys to values, which may be nested.

    The value of a text is TOML; a bare word is a string. In a mapping, paths become text, `None`
    means `none`, and an empty mapping a table of defaults.

    Raises `ConfigError` if a text has no `=`, or a key is empty.
    """
    if isinstance(changes, Mapping):
        return [_of_item(key, value) for key, value in _flatten(changes, ())]
    return [_of_text(text) for text in changes]


def override_texts(changes: Changes) -> tuple[str, ...]:
    """Return changes as texts `key.key=value`, as a sweep records them."""
    if not isinstance(changes, Mapping):
        return tuple(changes)
    return tuple(f"{'.'.join(c.keys)}={json.dumps(c.value)}" for c in parse_overrides(changes))


def _of_text(text: str) -> Override:
    key, equals, value = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r}: expected key=value, as in training.epochs=3")
    try:
        found = parse_toml(f"value = {value}", f"--set {text!r}")
    except ConfigError:
        found = {"value": int(value)} if LARGE_INTEGER.fullmatch(value) else {}
    return Override(keys, found["value"] if len(found) == 1 else value, text)


def _of_item(keys: tuple[str, ...], value: Any) -> Override:
    text = f"{'.'.join(keys)}={value}"
    if not all(keys):
        raise ConfigError(f"set {text!r}: expected dotted keys, as in 'training.epochs'")
    if isinstance(value, tuple):
        value = list(value)
    elif value is None or isinstance(value, PurePath):
        value = "none" if value is None else str(value)
    return Override(keys, value, text)


def _flatten(
    table: Mapping[str, Any], above: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        keys = (*above, *str(key).split("."))
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, keys)
        else:
            yield keys, value


def apply_override(table: dict[str, Any], override: Override) -> None:
    """Set a value in a nested table, in place; `none` removes an optional table, as in `llm=none`.

    Raises `ConfigError` if a key before the last is not a table.
    """
    *parents, last = override.keys
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override.text!r}: {parent} is a value, not a table")
    table[last] = override.value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; `ConfigError` names the file and, where it is known, the line."""
    return parse_toml(read_utf8(path, ConfigError, "expected a TOML file"), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Parse TOML text; `ConfigError`, which starts with `where`, if it is not TOML."""
    try:
        table = tomllib.loads(text)
        _refuse_large_integers(table)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        cause = "brackets are nested too deep" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{where}: not valid TOML: {cause}; correct it there") from error
    return table


def _refuse_large_integers(value: Any) -> None:
    """Raise `ValueError` for an integer that no library takes; Python could not print it either."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_large_integers(item)
    elif isinstance(value, int) and value.bit_length() > INTEGER_BITS:
        raise ValueError(
            f"an integer of {value.bit_length()} bits; expected {INTEGER_BITS} at most"
        )


def merge_tables(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `changes` in place of its own, at every level."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = merge_tables(old, value)
        merged[key] = value
    return merged


def build(kind: type[Built], table: Mapping[str, Any], where: str) -> Built:
    """Build a dataclass from a TOML table, which messages call `where`.

    A field marked `DERIVED` is no key of the table. A field marked `REST` is a dict that takes all
    unknown keys.

    Raises `ConfigError` if a key is unknown or missing, or a value has a wrong type or is not
    allowed.
    """
    hints, fields = typing.get_type_hints(kind), dataclasses.fields(kind)
    known = [item.name for item in fields if item.metadata not in (DERIVED, REST)]
    rest = next((item.name for item in fields if item.metadata == REST), "")
    for key in table:
        if key not in known and not rest:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}")
    for item in fields:
        if default_of(item) is dataclasses.MISSING and item.name not in table:
            raise ConfigError(f"{where}: key {item.name!r} is missing")
    values = {k: convert(hints[k], v, f"{where}: {k}") for k, v in table.items() if k in known}
    if rest:
        unknown = {k: v for k, v in table.items() if k not in known}
        values[rest] = convert(hints[rest], unknown, where)
    return kind(**values)


def to_table(section: "DataclassInstance") -> dict[str, Any]:
    """Return a dataclass as the table that `build` makes it from; arrays are tuples."""
    table: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if item.metadata == REST:
            table |= value
        elif item.metadata != DERIVED:
            table[item.name] = _plain(value)
    return table


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_table(value)
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def default_of(item: "dataclasses.Field[Any]") -> Any:
    """Default value of a field, `MISSING` if it is required."""
    made = item.default_factory
    return item.default if made is dataclasses.MISSING else made()


def convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a TOML value to a field's type: tables to dataclasses, arrays to tuples.

    Raises `ConfigError` if the value is not of that type.
    """
    if hint is Any:
        _require_writable(value, where)
        return value
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
        if kind is Any:
            return {k: convert(Any, v, f"{where}: {k}") for k, v in value.items()}
        return {k: convert(kind, v, f"{where}: {k}") for k, v in value.items() if v != "none"}
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            known = ", ".join(repr(a) for a in typing.get_args(hint))
            raise ConfigError(f"{where} = {value!r}: expected one of {known}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r}: expected an array")
        return tuple(convert(typing.get_args(hint)[0], item, where) for item in value)
    _require_writable(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        expected = "bool: true or false" if hint is bool else hint.__name__
        raise ConfigError(f"{where} = {value!r}: expected {expected}")
    return value


def _require_writable(value: Any, where: str) -> None:
    """Raise `ConfigError` for a number or text that TOML cannot hold, or that is not finite."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _require_writable(item, where)
    elif (
        (isinstance(value, str) and SURROGATE.search(value))
        or (isinstance(value, int) and value.bit_length() > INTEGER_BITS)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        shown = (
            f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"{value!r}"
        )
        raise ConfigError(f"{where}: found {shown}, expected {WRITABLE[type(value)]}")


def _convert_to_one(members: Sequence[Any], value: Any, where: str) -> Any:
    """Convert a value to the first type that it fits; an array only to a tuple."""
    array = isinstance(value, list | tuple)
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
    """Return a nested table as TOML text, without None values and empty tables."""
    return tomli_w.dumps(_without_empty(table))


def _without_empty(table: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k: _without_empty(v) if isinstance(v, Mapping) else v for k, v in table.items()}
    return {k: v for k, v in inner.items() if v is not None and v != {}}
