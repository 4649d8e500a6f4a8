"""Byte-counting semaphore: bounds the memory of encoded batches that wait for the disk."""

import threading

# Four batches of sixteen 30 s clips of Whisper large (float32, 7.7 MB a clip), or many more of
# usual clips. So a commit does not stop the encoder, and a disk that hangs uses no more memory than
# this and one batch.
MAX_UNWRITTEN_BYTES = 512 << 20


class ByteSemaphore:
    """Semaphore that counts bytes.

    Args:
        limit: most bytes held at once. A request larger than this is granted when nothing is held.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    def acquire(self, nbytes: int) -> None:
        """Hold some bytes; blocks while the limit would be exceeded."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + nbytes <= self._limit)
            self._held += nbytes

    def release(self, nbytes: int) -> None:
        """Give held bytes back."""
        with self._changed:
            self._held -= nbytes
            self._changed.notify_all()
