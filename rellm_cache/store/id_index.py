"""Index of utterance ids: the newest row of each id in a store.

A million Python strings would take a second and 100 MB, so ids stay bytes. A sorted array of 64-bit
hashes finds candidate rows, and the bytes confirm them. The hashes are Python's, which differ
between processes, so they are never stored. Rows are numbered across all parts.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ABSENT = -1
Item = TypeVar("Item")


class IdIndex(Set[str]):
    """The set of ids of a store, with the last row of each.

    `columns` holds, for each part, oldest first, its ids end to end (uint8) and their (N + 1,)
    offsets. `hash_id` hashes one id; two ids may have the same hash.
    """

    def __init__(
        self,
        columns: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]],
        hash_id: Callable[[bytes], int] = hash,
    ) -> None:
        self._hash_id = hash_id
        self._text = b"".join(text.tobytes() for text, _ in columns)
        sizes = [np.diff(offsets) for _, offsets in columns]
        self._ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes])).data
        count = len(self._ends) - 1
        hashes = np.fromiter(map(hash_id, self._all()), np.int64, count)
        order = hashes.argsort(kind="stable")  # equal hashes keep the order of their rows
        hashes = hashes[order]
        newest = self._newest(hashes, order)
        if not newest.all():
            hashes, order = hashes[newest], order[newest]
        # Reading one item is faster from a memoryview than from a numpy array.
        self._rows = order.astype(np.uint32).data
        self._hashes = hashes.data

    def _all(self) -> Iterator[bytes]:
        text = self._text
        return (text[a:b] for a, b in itertools.pairwise(self._ends))

    def _id(self, row: int) -> bytes:
        return self._text[self._ends[row] : self._ends[row + 1]]

    def _newest(self, hashes: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which sorted entries have no later row with the same id."""
        newest = np.ones(len(hashes), np.bool_)
        same = hashes[1:] == hashes[:-1]
        edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
        for first, last in edges.reshape(-1, 2).tolist():  # a run of equal hashes
            seen: set[bytes] = set()
            for entry in range(last, first - 1, -1):
                key = self._id(int(order[entry]))
                newest[entry] = key not in seen
                seen.add(key)
        return newest

    def row(self, utterance_id: str) -> int:
        """Return the row of an id, or `ABSENT`."""
        key = utterance_id.encode()
        wanted = self._hash_id(key)
        entry = bisect_left(self._hashes, wanted)
        while entry < len(self._hashes) and self._hashes[entry] == wanted:
            row: int = self._rows[entry]
            if self._id(row) == key:
                return row
            entry += 1  # another id with the same hash
        return ABSENT

    def rows(self, utterance_ids: Iterable[str]) -> NDArray[np.int64]:
        """Return (N,) rows of N ids, `ABSENT` for unknown ones."""
        return np.fromiter(map(self.row, utterance_ids), np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, utterance_id: object) -> bool:
        return isinstance(utterance_id, str) and self.row(utterance_id) != ABSENT

    def __iter__(self) -> Iterator[str]:
        for row in sorted(self._rows):
            yield self._id(row).decode()

    @classmethod
    def _from_iterable(cls, it: Iterable[Item]) -> set[Item]:
        """Make a plain set, the result of `&`, `|`, `-` and `^`."""
        return set(it)
