"""What waits for a disk, bounded in bytes. In: sizes as they come and go. Out: when to go on."""

import threading

# Four batches of sixteen 30 s clips of Whisper large (float32, 7.7 MB a clip), many more of usual
# clips: a commit holds no encoder up, and a disk that hangs takes no more memory than this and one
# batch.
BACKLOG_BYTES = 512 << 20


class Backlog:
    """Memory of encoded batches that are not written yet.

    Args:
        limit: bytes that may wait. A batch larger than that waits alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = 0
        self._changed = threading.Condition()

    def add(self, nbytes: int) -> None:
        """Count a batch; waits while there is no room for it."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting or self._waiting + nbytes <= self._limit
            )
            self._waiting += nbytes

    def remove(self, nbytes: int) -> None:
        """A batch is written, or given up."""
        with self._changed:
            self._waiting -= nbytes
            self._changed.notify_all()
