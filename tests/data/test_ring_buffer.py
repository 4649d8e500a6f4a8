"""Ring buffer: slots never overlap, are reused, and are refused while the buffer is full."""

from collections import deque

import numpy as np
import pytest

from rellm_cache.data.ring_buffer import RingBuffer, Slot, aligned_size


def test_pieces_are_disjoint_and_used_again() -> None:
    random = np.random.default_rng(1)
    ring = RingBuffer(10_000)
    live: deque[tuple[Slot, int]] = deque()
    starts = set()
    for number in range(2000):
        size = int(random.integers(1, 3000))
        slot = ring.take(size)
        while slot is None:
            oldest, mark = live.popleft()
            assert (oldest.memory == mark).all()  # nobody wrote into it
            ring.free(oldest)
            slot = ring.take(size)
        assert len(slot.memory) == size
        assert slot.start % 64 == 0
        slot.memory[:] = number % 256
        live.append((slot, number % 256))
        starts.add(slot.start)
    assert max(starts) < ring.nbytes
    assert len(starts) > 50


def test_a_full_ring_gives_nothing() -> None:
    ring = RingBuffer(256)
    first, second = ring.take(128), ring.take(100)
    assert first is not None
    assert second is not None
    assert ring.take(1) is None
    ring.free(first)
    again = ring.take(128)
    assert again is not None
    assert again.start == first.start
    assert ring.take(1) is None
    ring.clear()
    assert ring.take(256) is not None
    assert RingBuffer(64).take(65) is None


def test_pieces_are_freed_in_order() -> None:
    ring = RingBuffer(1024)
    first, second = ring.take(10), ring.take(10)
    assert first is not None
    assert second is not None
    with pytest.raises(ValueError, match="freed 64, but 0 is the oldest"):
        ring.free(second)
    ring.free(first)
    ring.free(second)


def test_room_for_one_more_where_what_is_held_and_twice_that_fits() -> None:
    """What the loader relies on: it never waits for memory that only it could free."""
    random = np.random.default_rng(2)
    for _ in range(300):
        sizes = [aligned_size(int(n)) for n in random.integers(1, 2000, 6)]
        ring = RingBuffer(sum(sizes) + max(sizes))
        before = ring.take(int(random.integers(1, ring.nbytes // 2)))
        assert before is not None
        kept = ring.take(sizes[0])  # the ring's head is anywhere by now
        ring.free(before)
        slots = [ring.take(size) for size in sizes[1:]]
        assert kept is not None
        assert all(slot is not None for slot in slots)
