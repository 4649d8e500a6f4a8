"""Lists of whole numbers as people write them."""

import pytest

from rellm_cache.errors import ConfigError
from rellm_cache.utils.console_ranges import parse_ranges


def test_numbers_and_ranges_in_their_order_each_once() -> None:
    assert parse_ranges("1-3, 5,7-8", "speakers") == (1, 2, 3, 5, 7, 8)
    assert parse_ranges("4,1-2,2", "seeds") == (4, 1, 2)
    assert parse_ranges("", "speakers") == ()


@pytest.mark.parametrize("text", ["one", "1-", "-2", "1;2", "3-1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"speakers '{text}': expected numbers and ranges"):
        parse_ranges(text, "speakers")
