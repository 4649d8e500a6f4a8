"""Byte-counting semaphore: bounds the memory of encoded batches that wait for the disk."""

import threading

# Space for four batches of sixteen 30 s clips of Whisper large (float32, 7.7 MB a clip), or for
# many more batches of typical clips. So the encoder does not wait for a commit, and if the disk
# hangs, the waiting frames use at most this much memory plus one batch.
MAX_UNWRITTEN_BYTES = 512 << 20


class ByteSemaphore:
    """Semaphore that counts bytes.

    Args:
        limit: maximum number of bytes held. A larger request is granted when nothing is held.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    def acquire(self, nbytes: int) -> None:
        """Hold some bytes; block while this would exceed the limit."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + nbytes <= self._limit)
            self._held += nbytes

    def release(self, nbytes: int) -> None:
        """Release held bytes."""
        with self._changed:
            self._held -= nbytes
            self._changed.notify_all()
