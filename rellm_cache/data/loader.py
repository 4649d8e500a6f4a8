"""The batch loader. In: examples, where their frames are, an order. Out: batches, made in advance.

Threads copy frames from mapped files into one ring of memory while the caller computes; other
threads ask the system to load what comes after that, so that a disk has many requests at once.
No worker processes: a copy between processes costs more than it gains, threads copy without
Python's lock.
"""

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.collate import fill, layout
from rellm_cache.data.gpu_prefetch import prefetch_to_gpu
from rellm_cache.data.ring_buffer import RingBuffer, Slot
from rellm_cache.data.streams import StreamSet

Indices = Sequence[int]
THREADS = 2
READ_AHEAD_BYTES = 64 << 20
ANNOUNCED_TOGETHER = 16 << 20  # fewer, longer lists: each is a thread's turn under Python's lock


class BatchLoader:
    """Batches of a fixed set of examples, in any order, several times over.

    Nothing is open between iterations: a loader and its stores may be handed to other processes,
    by fork or spawn, and iterated there.

    Args:
        examples: that indices refer to.
        streams: where their frames come from.
        device: that the batches are for; to a GPU they are copied while the step before computes.
        threads: that copy, and as many that read ahead.

    Attributes:
        lengths: frames of each example.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        streams: StreamSet,
        device: torch.device | None = None,
        threads: int = THREADS,
    ) -> None:
        self._examples = examples
        self._streams = streams
        self._gpu = device if device is not None and device.type == "cuda" else None
        self._threads = threads
        self._ring: RingBuffer | None = None
        self.lengths: list[int] = streams.lengths([e.id for e in examples]).tolist()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_ring": None}  # memory does not travel

    def batches(self, plan: Sequence[Indices]) -> Generator[Batch, None, None]:
        """A batch of each list of indices; each is valid until the next is asked for."""
        for (batch,) in self.groups([[indices] for indices in plan]):
            yield batch

    def groups(self, plan: Sequence[Sequence[Indices]]) -> Generator[list[Batch], None, None]:
        """The batches of each group of index lists, as one optimiser step needs them.

        A group's frames are valid until the next group is asked for, or the iterator is closed:
        then their memory is used again. Whoever keeps a batch for longer clones it. For a GPU they
        are on it, the next group's copy under way.

        Raises:
            StoreError: frames cannot be read.
            RuntimeError: the iterator was begun in another process.
        """
        groups = self._in_host_memory(plan)
        return groups if self._gpu is None else prefetch_to_gpu(groups, self._gpu)

    def _in_host_memory(
        self, plan: Sequence[Sequence[Indices]]
    ) -> Generator[list[Batch], None, None]:
        ring = self._take_ring(plan)
        owner = os.getpid()
        with (
            ThreadPoolExecutor(self._threads, "rellm-fill") as fillers,
            ThreadPoolExecutor(self._threads, "rellm-read-ahead") as readers,
        ):
            work = _Work(self, plan, ring, fillers, readers)
            try:
                for group in plan:
                    if os.getpid() != owner:
                        raise RuntimeError(
                            "these batches were begun before a fork, and the threads that make "
                            "them stayed with the parent; begin a new iteration in the child"
                        )
                    yield work.next_group(len(group))
            finally:
                fillers.shutdown(wait=True, cancel_futures=True)
                readers.shutdown(wait=True, cancel_futures=True)
                ring.clear()
                self._ring = ring

    def _take_ring(self, plan: Sequence[Sequence[Indices]]) -> RingBuffer:
        """The ring of the last iteration, or a new one where another has it or it is too small.

        Its size follows from the longest example and the largest batch and group, so it is the same
        for every epoch: the group in use, and a batch for each thread.
        """
        clips = max((sum(map(len, group)) for group in plan), default=0)
        largest = max((len(indices) for group in plan for indices in group), default=0)
        parts = 1 + max((len(group) for group in plan), default=0)
        longest = max(self.lengths, default=0)
        clip_bytes = layout(self._streams, 1, longest).nbytes
        # Each batch may lose some bytes to alignment, between its streams and at its end.
        slack = 256 * (parts + self._threads)
        nbytes = clip_bytes * (clips + max(self._threads, 1) * largest) + slack
        ring, self._ring = self._ring, None
        return (
            ring
            if ring is not None and ring.nbytes >= nbytes
            else RingBuffer(nbytes, pinned=self._gpu is not None)
        )

    def _fill(self, indices: Indices, slot: Slot) -> Batch:
        examples = [self._examples[i] for i in indices]
        return fill(slot.memory, examples, [self.lengths[i] for i in indices], self._streams)

    def _read_ahead(self, indices: Indices) -> None:
        ids = [self._examples[i].id for i in indices]
        self._streams.read_ahead(ids)

    def _nbytes(self, indices: Indices) -> int:
        longest = max(self.lengths[i] for i in indices)
        return layout(self._streams, len(indices), longest).nbytes


class _Work:
    """What is under way in one iteration: batches held by the caller, being filled, read ahead."""

    def __init__(
        self,
        loader: BatchLoader,
        plan: Sequence[Sequence[Indices]],
        ring: RingBuffer,
        fillers: ThreadPoolExecutor,
        readers: ThreadPoolExecutor,
    ) -> None:
        self._loader, self._ring, self._fillers, self._readers = loader, ring, fillers, readers
        self._upcoming = iter([indices for group in plan for indices in group])
        self._announced: deque[tuple[Indices, int]] = deque()  # and bytes, to be filled next
        self._bytes_announced = 0
        self._held: list[Slot] = []
        self._filling: deque[tuple[Slot, Future[Batch]]] = deque()

    def next_group(self, size: int) -> list[Batch]:
        """Free the group before, start what fits, and wait for the batches of this group."""
        for slot in self._held:
            self._ring.free(slot)
        self._held = []
        self._start()
        batches = []
        for _ in range(size):
            slot, batch = self._filling.popleft()
            self._held.append(slot)
            batches.append(batch.result())
        return batches

    def _start(self) -> None:
        """Fill as many batches as there is memory for, and announce what comes after them."""
        while True:
            self._announce()
            if not self._announced:
                return
            indices, nbytes = self._announced[0]
            slot = self._ring.take(nbytes)
            if slot is None:
                return
            self._announced.popleft()
            self._bytes_announced -= nbytes
            self._filling.append((slot, self._fillers.submit(self._loader._fill, indices, slot)))

    def _announce(self) -> None:
        """Have the clips of the batches after those in hand read from the disk."""
        if self._announced and self._bytes_announced > READ_AHEAD_BYTES - ANNOUNCED_TOGETHER:
            return
        together: list[int] = []
        while self._bytes_announced < READ_AHEAD_BYTES:
            indices = next(self._upcoming, None)
            if indices is None:
                break
            nbytes = self._loader._nbytes(indices)
            self._announced.append((indices, nbytes))
            self._bytes_announced += nbytes
            together += indices
        if together:
            self._readers.submit(self._loader._read_ahead, together)
