import tomllib
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.config.toml import apply_override, override_texts, parse_overrides, write_toml
from rellm_cache.errors import ConfigError


def test_an_override_makes_the_tables_it_needs() -> None:
    table = {"a": 1}
    (override,) = parse_overrides(["b.c.d='x = y'"])
    apply_override(table, override)
    assert table == {"a": 1, "b": {"c": {"d": "x = y"}}}


CHANGES: dict[str, Any] = {
    "seed": 3,
    "training": {"learning_rate": 1e-4, "schedule": "cosine"},
    "heads.emotions": ("sad", "happy"),
    "llm": None,
    "llm.lora": {},
    "training.init_from": Path("runs/heads"),
    "heads.dimensions": False,
}


def test_a_mapping_changes_what_its_texts_change() -> None:
    texts = (
        "seed=3",
        "training.learning_rate=0.0001",
        'training.schedule="cosine"',
        'heads.emotions=["sad", "happy"]',
        'llm="none"',
        "llm.lora={}",
        'training.init_from="runs/heads"',
        "heads.dimensions=false",
    )
    assert override_texts(CHANGES) == texts
    assert override_texts(texts) == texts
    found, expected = parse_overrides(CHANGES), parse_overrides(texts)
    assert [(o.keys, o.value) for o in found] == [(o.keys, o.value) for o in expected]


@pytest.mark.parametrize("changes", [["=3"], ["seed"], {"": 3}, {"a..b": 1}, {"a": {"": 1}}])
def test_a_key_without_a_name_is_refused(changes: Any) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_overrides(changes)


def test_none_is_left_out_and_tables_follow_values() -> None:
    table = {"sub": {"x": [1, 2], "deep": {"t": True}}, "name": 'a "b"', "gone": None}
    assert tomllib.loads(write_toml(table)) == {
        "name": 'a "b"',
        "sub": {"x": [1, 2], "deep": {"t": True}},
    }
