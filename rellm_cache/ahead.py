"""Overlap. In: a slow function and its inputs. Out: its results in order, one made in advance."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def one_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map`, with a thread working on the next item while the caller uses the last result."""
    with ThreadPoolExecutor(1) as worker:
        pending: Future[R] | None = None
        for item in items:
            ready, pending = pending, worker.submit(function, item)
            if ready is not None:
                yield ready.result()
        if pending is not None:
            yield pending.result()
