"""Ring buffer for padded batches: one block of memory, cut into slots that are reused in order.

Slots are freed in the order in which they were taken. So the buffer needs no list of free slots,
wastes no memory between batches of different sizes, and does not grow after the first round.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

ALIGNMENT = 64


def aligned_size(nbytes: int) -> int:
    """Bytes of the slot that holds `nbytes` bytes."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def allocate(nbytes: int, pinned: bool = False) -> NDArray[np.uint8]:
    """New memory, aligned so that copies into it are fast, and page-locked if `pinned`."""
    # torch aligns and page-locks memory; a numpy view of it is filled without torch's threads.
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned).numpy()


@dataclass(frozen=True, eq=False)
class Slot:
    """Range of bytes in a ring buffer."""

    start: int
    stop: int
    memory: NDArray[np.uint8]


class RingBuffer:
    """One block of memory, given out in slots and taken back in the same order.

    Args:
        nbytes: size of the block. While slots of h bytes are held, a slot of n bytes is always free
            if h + 2 n <= nbytes.
        pinned: page-lock the block, for faster copies to a GPU.
    """

    def __init__(self, nbytes: int, pinned: bool = False) -> None:
        self.nbytes = aligned_size(nbytes)
        self.pinned = pinned
        self._block = allocate(self.nbytes, pinned)
        self._live: deque[Slot] = deque()
        self._head = 0

    def take(self, nbytes: int) -> Slot | None:
        """A slot of `nbytes` bytes, or None while too few slots are free."""
        size = max(aligned_size(nbytes), ALIGNMENT)
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
        slot = Slot(start, self._head, self._block[start : start + nbytes])
        self._live.append(slot)
        return slot

    def free(self, slot: Slot) -> None:
        """Free the oldest slot; its memory will be overwritten. `ValueError` for any other slot."""
        oldest = self._live.popleft()
        if oldest is not slot:
            self._live.appendleft(oldest)
            raise ValueError(f"freed {slot.start}, but {oldest.start} is the oldest slot")

    def clear(self) -> None:
        """Free all slots."""
        self._live.clear()
