import tomllib

from rellm_cache.config.toml import apply_override, write_toml


def test_an_override_makes_the_tables_it_needs() -> None:
    table = {"a": 1}
    apply_override(table, "b.c.d='x = y'")
    assert table == {"a": 1, "b": {"c": {"d": "x = y"}}}


def test_none_is_left_out_and_tables_follow_values() -> None:
    table = {"sub": {"x": [1, 2], "deep": {"t": True}}, "name": 'a "b"', "gone": None}
    assert tomllib.loads(write_toml(table)) == {
        "name": 'a "b"',
        "sub": {"x": [1, 2], "deep": {"t": True}},
    }
