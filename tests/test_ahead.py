"""One item is made while the last one is used; order and errors are those of `map`."""

import threading
from collections.abc import Iterator

import pytest

from rellm_cache.ahead import one_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_results_come_in_order(count: int) -> None:
    assert list(one_ahead(lambda n: n * n, range(count))) == [n * n for n in range(count)]


def test_the_next_item_is_made_while_the_last_is_used() -> None:
    made = [threading.Event() for _ in range(3)]
    results = one_ahead(lambda n: made[n].set(), range(3))
    next(results)
    assert made[1].wait(timeout=10)  # nobody has asked for it yet
    assert not made[2].is_set()


def test_an_error_comes_where_its_item_would() -> None:
    results: Iterator[float] = one_ahead(lambda n: 1 / n, [1, 0])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
