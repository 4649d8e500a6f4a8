"""Fuzzing of recipes: damaged bytes of the shipped ones, and values of every kind of TOML."""

from pathlib import Path

import tomli_w
from fuzzing import damaged_bytes, fuzz, value_or_named_error
from hypothesis import strategies as st

from rellm_cache.config.recipes import load_recipe, shipped_recipes, to_toml

SCALARS = (
    st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["none", "conv", "whisper", "loss", "/dev/zero", "x" * 300])
    | st.dates()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def load_and_write(path: Path) -> None:
    recipe = load_recipe(str(path))
    again = path.with_name("again.toml")
    again.write_text(to_toml(recipe), "utf-8")
    assert load_recipe(str(again)) == recipe


def test_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        value_or_named_error(lambda: load_and_write(path), path, "recipe '")

    shipped = [text.encode() for text in shipped_recipes().values()]
    fuzz(st.sampled_from(shipped).flatmap(damaged_bytes), check)


def test_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    fields = [
        (section, name)
        for section, table in load_recipe("re-llm").to_table().items()
        for name in (table if isinstance(table, dict) else [""])
    ]

    def check(changes: list[tuple[tuple[str, str], object]]) -> None:
        table: dict[str, object] = {"extends": "re-llm"}
        for (section, name), value in changes:
            inner = table.setdefault(section, {})
            if name and isinstance(inner, dict):
                inner[name] = value
            else:
                table[section] = value
        path.write_text(tomli_w.dumps(table), "utf-8", "surrogatepass")
        value_or_named_error(lambda: load_and_write(path), path, "recipe '")

    change = st.tuples(st.sampled_from(fields), VALUES)
    fuzz(st.lists(change, min_size=1, max_size=3), check)
