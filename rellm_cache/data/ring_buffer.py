"""Memory that is used again and again. In: sizes, in the order of use. Out: pieces of one block.

Pieces are freed in the order they were taken, so the block is a ring: no list of free buffers, no
waste between batches of different size, and no growth once it has been written through.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 64


def aligned(nbytes: int) -> int:
    """The size of the piece that holds so many bytes."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, eq=False)
class Piece:
    """Some bytes of a ring."""

    start: int
    stop: int
    memory: NDArray[np.uint8]


class Ring:
    """One block of memory, given out in pieces and taken back in the same order.

    Args:
        nbytes: of the block. Whoever holds pieces of h bytes in all can be sure of one more of n
            bytes where h + 2 n fits.
        pinned: page-locked, so that a GPU copies from it without a detour.
    """

    def __init__(self, nbytes: int, pinned: bool = False) -> None:
        self.nbytes = aligned(nbytes)
        self.pinned = pinned
        # torch hands out page-locked memory; as an array it is filled without torch's threads.
        self._block = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=pinned).numpy()
        self._live: deque[Piece] = deque()
        self._head = 0

    def take(self, nbytes: int) -> Piece | None:
        """A piece of so many bytes, or None until enough pieces were freed."""
        size = max(aligned(nbytes), ALIGNMENT)
        start = 0
        if self._live:
            tail, start = self._live[0].start, self._head
            wrapped = start <= tail
            if not wrapped and start + size > self.nbytes:
                start, wrapped = 0, True
            if wrapped and start + size > tail:
                return None
        if start + size > self.nbytes:
            return None
        self._head = start + size
        piece = Piece(start, self._head, self._block[start : start + nbytes])
        self._live.append(piece)
        return piece

    def free(self, piece: Piece) -> None:
        """Take the oldest piece back; what it held will be overwritten.

        Raises:
            ValueError: another piece is older.
        """
        oldest = self._live.popleft()
        if oldest is not piece:
            self._live.appendleft(oldest)
            raise ValueError(f"freed {piece.start}, but {oldest.start} is the oldest piece")

    def clear(self) -> None:
        """Take every piece back."""
        self._live.clear()
