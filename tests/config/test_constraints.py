"""Constraints of recipe fields: allowed values and error messages."""

import pytest

from rellm_cache.config.constraints import Holds, Range


@pytest.mark.parametrize(
    ("constraint", "allowed", "refused", "expected"),
    [
        (Range(1), 1, 0, "1 or more"),
        (Range(0, 1), 1.0, 1.5, "0 to 1"),
        (Range(0, below=1), 0, 1, "0 or more and less than 1"),
        (Range(above=0), 0.1, 0.0, "more than 0"),
        (Range(0, word="auto"), "auto", -1, "0 or more, or 'auto'"),
        (Range(above=0), (1.0, 2.0), (1.0, 0.0), "numbers, each more than 0"),
        (Holds("{a}", "{b}"), "{b} {a}", "{a} {a} {b}", "{a} exactly once"),
        (
            Holds("{a}"),
            ("{a}", "b{a}"),
            ("{a}", "b"),
            "one text or more, each with {a} exactly once",
        ),
        (Holds("{a}"), ("{a}",), (), "one text or more, each with `{a}` once"),
    ],
)
def test_a_constraint_says_what_it_expects(
    constraint: Range | Holds, allowed: object, refused: object, expected: str
) -> None:
    assert constraint.broken_by(allowed) == ""  # type: ignore[arg-type]  # texts for `Holds`
    assert constraint.broken_by(refused) == expected  # type: ignore[arg-type]  # as above


def test_a_constraint_reads_well_in_a_table() -> None:
    assert str(Holds("{speech}", "{emotion}")) == "`{speech}` and `{emotion}` once"
