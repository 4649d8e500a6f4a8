"""CSV cells: formulas are neutralized, everything else stays, and every text is read back."""

import pytest
from hypothesis import given
from hypothesis.strategies import text

from rellm_cache.utils.csv_cells import neutralize, restore


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /c'!A0", "-x", "@SUM(A1)", "\t=1", "\r=1", "-", "+-1"]
)
def test_formulas_get_an_apostrophe(cell: str) -> None:
    assert neutralize(cell) == f"'{cell}"
    assert neutralize(f"'{cell}") == f"''{cell}"


@pytest.mark.parametrize(
    "cell", [-1, -0.5, True, None, "-0.5", "+3", "-1e-05", "-inf", "-.5", "", "a=b"]
)
def test_numbers_and_other_texts_stay(cell: object) -> None:
    assert neutralize(cell) == cell


@given(text(alphabet="'=+-@\t\ra1. "))
def test_every_text_is_read_back(cell: str) -> None:
    assert restore(str(neutralize(cell))) == cell
