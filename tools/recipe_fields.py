"""Tables of recipe fields for docs/recipes.md, made from the schema.

    python tools/recipe_fields.py       # writes the tables of docs/recipes.md again

The text under a field in `rellm_cache/config` is its documentation. tests/test_docs.py compares the
page with the schema.
"""

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rellm_cache.config.field_texts import describe_fields, table_of
from rellm_cache.config.renamed_fields import RENAMED
from rellm_cache.config.schema import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
FIELDS = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
RENAMES = "| old name | new name |\n| --- | --- |\n"


def recipe_tables(kind: Any = Recipe, path: str = "") -> Iterator[tuple[str, Any]]:
    """TOML path and dataclass of every table of a recipe; the path of the recipe itself is ""."""
    yield path, kind
    for name, hint in typing.get_type_hints(kind).items():
        if (inner := table_of(hint)) is not None:
            named = f"{name}.NAME" if typing.get_origin(hint) is dict else name
            yield from recipe_tables(inner, f"{path}.{named}".removeprefix("."))


def field_rows(kind: Any) -> str:
    """A Markdown row for each field of a dataclass that is no table itself."""
    rows = []
    for field in describe_fields(kind):
        assert field.text, f"{kind.__name__}.{field.name}: write its documentation under it"
        rows.append(f"| `{field.name}` | {field.type} | {field.default} | {field.text} |\n")
    return "".join(rows)


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
