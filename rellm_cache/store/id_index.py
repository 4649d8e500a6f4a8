"""Where utterances lie. In: the id columns of all parts, oldest first. Out: row numbers by id.

A million Python strings would take a second and 100 MB. So ids stay the bytes they are on disk; a
sorted array of 64-bit hashes finds candidates and the bytes decide. The hashes are Python's own,
which differ from process to process, so they are never stored. Rows are numbered through all parts;
where an id is in several, the last row wins.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

ABSENT = -1
Item = TypeVar("Item")


class IdIndex(Set[str]):
    """The set of ids of a store, and the row each one's newest frames are in.

    Args:
        columns: for each part, its ids end to end (uint8) and the (N + 1,) offset of each.
    """

    def __init__(self, columns: Sequence[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> None:
        self._text = b"".join(text.tobytes() for text, _ in columns)
        sizes = [np.diff(offsets) for _, offsets in columns]
        self._ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes])).data
        count = len(self._ends) - 1
        hashes = np.fromiter(map(hash, self._all()), np.int64, count)
        order = hashes.argsort(kind="stable")  # equal hashes stay in the order of their rows
        hashes = hashes[order]
        newest = self._newest(hashes, order)
        if not newest.all():
            hashes, order = hashes[newest], order[newest]
        # Single items of these are read as Python integers, which numpy arrays are slow at.
        self._rows = order.astype(np.uint32).data
        self._hashes = hashes.data

    def _all(self) -> Iterator[bytes]:
        text = self._text
        return (text[a:b] for a, b in itertools.pairwise(self._ends))

    def _id(self, row: int) -> bytes:
        return self._text[self._ends[row] : self._ends[row + 1]]

    def _newest(self, hashes: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which sorted entries no later row of the same id supersedes."""
        newest = np.ones(len(hashes), np.bool_)
        same = hashes[1:] == hashes[:-1]
        edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
        for first, last in edges.reshape(-1, 2).tolist():  # a run of equal hashes
            seen: set[bytes] = set()
            for place in range(last, first - 1, -1):
                key = self._id(int(order[place]))
                newest[place] = key not in seen
                seen.add(key)
        return newest

    def row(self, utterance_id: str) -> int:
        """The row of an id, `ABSENT` if it is not here."""
        key = utterance_id.encode()
        wanted = hash(key)
        place = bisect_left(self._hashes, wanted)
        while place < len(self._hashes) and self._hashes[place] == wanted:
            row: int = self._rows[place]
            if self._id(row) == key:
                return row
            place += 1  # another id of the same hash
        return ABSENT

    def rows(self, utterance_ids: Iterable[str]) -> NDArray[np.int64]:
        """(N,) rows of N ids, `ABSENT` where one is not here."""
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
        """What `&`, `|`, `-` and `^` make: a plain set, as this one is made from columns alone."""
        return set(it)
