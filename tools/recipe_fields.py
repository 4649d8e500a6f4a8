"""Tables of recipe fields for docs/recipes.md, made from the schema.

    python tools/recipe_fields.py       # writes the tables of docs/recipes.md again

The text under a field in `rellm_cache/config` is its documentation. tests/test_docs.py compares the
page with the schema.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rellm_cache.config.constraints import Range, constraints_of
from rellm_cache.config.renamed_fields import RENAMED
from rellm_cache.config.schema import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
FIELDS = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
RENAMES = "| old name | new name |\n| --- | --- |\n"
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def recipe_tables(kind: Any = Recipe, path: str = "") -> Iterator[tuple[str, Any]]:
    """TOML path and dataclass of every table of a recipe; the path of the recipe itself is ""."""
    yield path, kind
    for name, hint in typing.get_type_hints(kind).items():
        if (inner := table_of(hint)) is not None:
            named = f"{name}.NAME" if typing.get_origin(hint) is dict else name
            yield from recipe_tables(inner, f"{path}.{named}".removeprefix("."))


def table_of(hint: Any) -> Any:
    """The dataclass of a field that is a table, of `X`, `X | None` or `dict[str, X]`; else None."""
    members = typing.get_args(hint) or (hint,)
    return next((m for m in members if dataclasses.is_dataclass(m)), None)


def field_texts(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass in its source, as one line."""
    texts: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for pair in pairwise(tree.body):
            match pair:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = " ".join(text.split())
    return texts


def field_rows(kind: Any) -> str:
    """A Markdown row for each field of a dataclass that is no table itself."""
    hints, texts, constraints = typing.get_type_hints(kind), field_texts(kind), constraints_of(kind)
    rows = []
    for field in dataclasses.fields(kind):
        name, default = field.name, "required"
        if table_of(hints[name]) is not None:
            continue
        assert name in texts, f"{kind.__name__}.{name}: write its documentation under it"
        if field.default_factory is not dataclasses.MISSING:
            default = "empty"
        elif field.default is not dataclasses.MISSING:
            default = f"`{json.dumps(field.default, ensure_ascii=False)}`"
        elif field.default_factory is not dataclasses.MISSING:
            default = f"`{json.dumps(field.default_factory())}`"
        cell, constraint = type_cell(hints[name]), constraints.get(name)
        if constraint is not None:
            cell += f", {constraint}" if isinstance(constraint, Range) else f" with {constraint}"
        rows.append(f"| `{name}` | {cell} | {default} | {texts[name]} |\n")
    return "".join(rows)


def type_cell(hint: Any) -> str:
    """A type as the page names it."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(map(type_cell, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        if typing.get_origin(typing.get_args(hint)[0]) is Literal:
            return f"array of {type_cell(typing.get_args(hint)[0])}"
        return f"array of {TYPES[typing.get_args(hint)[0]]}s"
    if typing.get_origin(hint) is dict:
        kind = typing.get_args(hint)[1]
        return f"table of {TYPES[kind]}s" if kind in TYPES else "table"
    return TYPES[hint]


def rename_rows() -> str:
    """A Markdown row for each renamed field."""
    rows = []
    for table, names in RENAMED.items():
        for old, new in names.items():
            name, space, note = (new if "." in new else f"{table}.{new}").partition(" ")
            rows.append(f"| `{table}.{old}` | `{name}`{space}{note} |\n")
    return "".join(rows)


def section_paths(section: str) -> list[str]:
    """The TOML paths in the heading of a section, as in "[training]"; "" for the top level."""
    return re.findall(r"\[([\w.]+)\]", section.partition("\n")[0]) or [""]


def with_tables(page: str) -> str:
    """The page with every table made again."""
    kinds = dict(recipe_tables())
    sections = re.split(r"(?m)^(?=### )", page)
    for at, section in enumerate(sections):
        if section.startswith("### ") and (kind := kinds.get(section_paths(section)[0])):
            sections[at] = with_rows(section, FIELDS, field_rows(kind))
    return with_rows("".join(sections), RENAMES, rename_rows())


def with_rows(text: str, head: str, rows: str) -> str:
    """The text with other rows under the head of its table."""
    return re.sub(rf"({re.escape(head)})(?:\|.*\n)*", lambda found: found[1] + rows, text, count=1)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
