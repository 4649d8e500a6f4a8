"""Batch loader: threads prepare batches in advance, in any order of the examples.

Threads copy frames from memory-mapped files into the next batches while the caller computes. Other
threads tell the system which frames will be read later, so that a disk gets many requests at once.
There are no worker processes: copying between processes costs more than it gains, and threads copy
without the GIL.
"""

import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from rellm_cache.data.batch import Batch, Example
from rellm_cache.data.collate import fill, layout
from rellm_cache.data.gpu_prefetch import prefetch_to_gpu
from rellm_cache.data.ring_buffer import ALIGNMENT, RingBuffer, Slot, allocate
from rellm_cache.data.streams import StreamSet

Indices = Sequence[int]
THREADS = 2
READ_AHEAD_BYTES = 64 << 20
ANNOUNCED_TOGETHER = 16 << 20  # fewer, longer announcements: each takes the GIL once


class BatchLoader:
    """Batches of a fixed set of examples, in any order, several times.

    No file or thread is open between iterations, so a loader and its stores can be sent to other
    processes, by fork or spawn, and iterated there.

    Args:
        device: device of the batches. They are copied to a GPU while the previous step computes.
        threads: number of threads that copy; the same number of other threads read ahead.

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
        return {**self.__dict__, "_ring": None}  # memory is not sent to other processes

    def batches(
        self, plan: Sequence[Indices], reuse_memory: bool = False
    ) -> Generator[Batch, None, None]:
        """Yield a batch for each list of indices; arguments and errors are those of `groups`."""
        for (batch,) in self.groups([[indices] for indices in plan], reuse_memory):
            yield batch

    def groups(
        self, plan: Sequence[Sequence[Indices]], reuse_memory: bool = False
    ) -> Generator[list[Batch], None, None]:
        """Yield the batches of each group of index lists; a group is one optimizer step.

        Args:
            reuse_memory: overwrite the frames of a group when the next group is requested. This
                saves allocations; clone frames that you need longer. Batches on a GPU are never
                overwritten.

        Raises:
            StoreError: frames cannot be read.
            RuntimeError: the iteration began in another process.
        """
        if self._gpu is not None:  # only host memory is reused, after the copy
            return prefetch_to_gpu(self._in_host_memory(plan, reuse_memory=True), self._gpu)
        return self._in_host_memory(plan, reuse_memory)

    def _in_host_memory(
        self, plan: Sequence[Sequence[Indices]], reuse_memory: bool
    ) -> Generator[list[Batch], None, None]:
        ring = self._take_ring(plan)
        owner = os.getpid()
        with (
            ThreadPoolExecutor(self._threads, "rellm-fill") as fillers,
            ThreadPoolExecutor(self._threads, "rellm-read-ahead") as readers,
        ):
            iteration = _Iteration(self, plan, ring, fillers, readers, reuse_memory)
            try:
                for group in plan:
                    if os.getpid() != owner:
                        raise RuntimeError(
                            "this iteration began before a fork, and its threads stayed in the "
                            "parent process; begin a new iteration in the child"
                        )
                    yield iteration.next_group(len(group))
            finally:
                fillers.shutdown(wait=True, cancel_futures=True)
                readers.shutdown(wait=True, cancel_futures=True)
                ring.clear()
                self._ring = ring

    def _take_ring(self, plan: Sequence[Sequence[Indices]]) -> RingBuffer:
        """The ring buffer of the last iteration, or a new one if it is in use or too small.

        It holds the current group and one batch for each thread. Its size depends on the longest
        example and on the largest batch and group, so it is the same in every epoch.
        """
        clips = max((sum(map(len, group)) for group in plan), default=0)
        largest = max((len(indices) for group in plan for indices in group), default=0)
        parts = 1 + max((len(group) for group in plan), default=0)
        longest = max(self.lengths, default=0)
        clip_bytes = layout(self._streams, 1, longest).nbytes
        # Each stream of a batch may lose some bytes to alignment.
        slack = 2 * ALIGNMENT * len(self._streams.sources) * (parts + self._threads)
        nbytes = clip_bytes * (clips + max(self._threads, 1) * largest) + slack
        ring, self._ring = self._ring, None
        if ring is None or ring.nbytes < nbytes:
            ring = RingBuffer(nbytes, pinned=self._gpu is not None)
        return ring

    def _fill(self, indices: Indices, slot: Slot, reuse_memory: bool) -> Batch:
        examples = [self._examples[i] for i in indices]
        memory = slot.memory if reuse_memory else allocate(len(slot.memory))
        return fill(memory, examples, [self.lengths[i] for i in indices], self._streams)

    def _read_ahead(self, indices: Indices) -> None:
        self._streams.read_ahead([self._examples[i].id for i in indices])

    def _nbytes(self, indices: Indices) -> int:
        longest = max(self.lengths[i] for i in indices)
        return layout(self._streams, len(indices), longest).nbytes


class _Iteration:
    """State of one iteration: batches held by the caller, being filled, and read ahead.

    The ring buffer limits the batches in flight, even if each batch has its own memory.
    """

    def __init__(
        self,
        loader: BatchLoader,
        plan: Sequence[Sequence[Indices]],
        ring: RingBuffer,
        fillers: ThreadPoolExecutor,
        readers: ThreadPoolExecutor,
        reuse_memory: bool,
    ) -> None:
        self._loader, self._ring, self._fillers, self._readers = loader, ring, fillers, readers
        self._reuse_memory = reuse_memory
        self._upcoming = iter([indices for group in plan for indices in group])
        self._announced: deque[tuple[Indices, int]] = deque()  # next batches: indices, bytes
        self._bytes_announced = 0
        self._held: list[Slot] = []
        self._filling: deque[tuple[Slot, Future[Batch]]] = deque()

    def next_group(self, size: int) -> list[Batch]:
        """Free the previous group, start what fits, and wait for the batches of this group."""
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
        """Start filling as many batches as fit into memory, and announce the next ones."""
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
            batch = self._fillers.submit(self._loader._fill, indices, slot, self._reuse_memory)
            self._filling.append((slot, batch))

    def _announce(self) -> None:
        """Read ahead for the batches that will be filled next."""
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
