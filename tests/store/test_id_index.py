"""Id index: rows by id; the newest row wins, and ids may share a hash."""

import random

import numpy as np
import pytest

from rellm_cache.store.id_index import ABSENT, IdIndex


def columns(*parts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The id columns of parts, as on disk."""
    made = []
    for part in parts:
        encoded = [i.encode() for i in part]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        made.append((np.frombuffer(b"".join(encoded), np.uint8), ends))
    return made


def test_ids_have_the_rows_they_were_written_in() -> None:
    index = IdIndex(columns(["a/1", "ü/2"], [], ["日本/3"]))
    assert [index.row(i) for i in ("a/1", "ü/2", "日本/3", "a/2", "")] == [0, 1, 2, ABSENT, ABSENT]
    assert index.rows(["日本/3", "x", "a/1"]).tolist() == [2, ABSENT, 0]
    assert list(index) == ["a/1", "ü/2", "日本/3"]
    assert len(index) == 3
    assert "ü/2" in index
    assert 7 not in index
    assert index & {"a/1", "b"} == {"a/1"}


def test_an_empty_index_holds_nothing() -> None:
    index = IdIndex([])
    assert (len(index), list(index), index.row("a")) == (0, [], ABSENT)


@pytest.mark.parametrize("kinds", [0, 1, 3])
def test_the_last_row_of_an_id_wins(kinds: int) -> None:
    """Also if many ids share a hash: one or three hash values for all of them."""

    def hash_id(key: bytes) -> int:
        return hash(key) % kinds if kinds else hash(key)

    source = random.Random(1)
    parts = [[f"clip/{source.randrange(60)}" for _ in range(30)] for _ in range(8)]
    expected = {key: row for row, key in enumerate(key for part in parts for key in part)}
    index = IdIndex(columns(*parts), hash_id)
    assert {key: index.row(key) for key in expected} == expected
    assert set(index) == expected.keys()
    assert list(index) == sorted(expected, key=expected.__getitem__)
    assert index.row("clip/60") == ABSENT
