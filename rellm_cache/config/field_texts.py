"""Documentation of fields: type, default and the text under each field of a dataclass."""

import ast
import dataclasses
import inspect
import json
import textwrap
import types
import typing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from rellm_cache.config.constraints import Range, constraints_of
from rellm_cache.config.toml import DERIVED, REST, default_of

TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class FieldText:
    """What is written about a field, in Markdown.

    Attributes:
        type: with the constraint, as "integer, 1 or more".
        default: "required" if there is none.
    """

    name: str
    type: str
    default: str
    text: str


def describe_fields(kind: type[Any]) -> list[FieldText]:
    """Describe the fields of a dataclass that are keys of its table and no tables themselves."""
    hints, texts, constraints = typing.get_type_hints(kind), field_texts(kind), constraints_of(kind)
    found = []
    for item in dataclasses.fields(kind):
        if table_of(hints[item.name]) is not None or item.metadata in (DERIVED, REST):
            continue
        default = default_of(item)
        shown = "required" if default is dataclasses.MISSING else f"`{_as_json(default)}`"
        constraint, type_ = constraints.get(item.name), type_text(hints[item.name])
        if constraint is not None:
            type_ += f", {constraint}" if isinstance(constraint, Range) else f" with {constraint}"
        shown = "empty" if default == {} else shown
        found.append(FieldText(item.name, type_, shown, texts.get(item.name, "")))
    return found


def table_of(hint: Any) -> Any:
    """The dataclass of a field that is a table, of `X`, `X | None` or `dict[str, X]`; else None."""
    members = typing.get_args(hint) or (hint,)
    return next((m for m in members if dataclasses.is_dataclass(m)), None)


def field_texts(kind: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass in its source, as one line; none without source."""
    texts: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # defined in an interpreter
            continue
        (tree,) = ast.parse(source).body
        for pair in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
            match pair:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = " ".join(text.split())
    return texts


def type_text(hint: Any) -> str:
    """A type in words."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{_as_json(value)}`" for value in members)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_text(member) for member in members if member is not type(None))
    if origin is tuple:
        plural = "" if typing.get_origin(members[0]) is Literal else "s"
        return f"array of {type_text(members[0])}{plural}"
    if origin is dict:
        return "table" if members[1] not in TYPES else f"table of {TYPES[members[1]]}s"
    return TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
