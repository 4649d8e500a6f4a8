"""A run folder of rellm 0.1, and its recipe with the current field names."""

import tomllib
from pathlib import Path
from typing import Any

from rellm_cache.config.renamed_fields import renamed_fields
from rellm_cache.config.toml import write_toml

EDITION_1 = Path(__file__).parents[1] / "fixtures" / "edition1"


def with_new_names(text: str) -> str:
    """What the message about old names tells a user to do with a recipe."""
    recipe = tomllib.loads(text)

    def table_of(path: list[str]) -> dict[str, Any]:
        inner = recipe
        for name in path:
            inner = inner[name]
        return inner

    for old, new in list(renamed_fields(recipe)):
        *path, field = old.split(".")
        value = table_of(path).pop(field)
        *path, field = new.split()[0].split(".")
        table_of(path)[field] = value == "host" if field == "offload_embeddings" else value
    recipe.pop("emotion", None)
    return write_toml(recipe)
