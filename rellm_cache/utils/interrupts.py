"""Ctrl-C (SIGINT) during work that saves its results when it ends.

Python raises `KeyboardInterrupt` wherever the main thread is, also while it handles an earlier one.
So a second Ctrl-C, or the same one passed on by a launcher, would stop the commit that the first
one started.
"""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from rellm_cache.utils.console import say

NOTICE = (
    "Saving what is done so far. Press Ctrl-C again to stop without saving; the same command then "
    "does it again."
)


class Interrupts:
    """Context manager for work that saves its results when it ends.

    - The first Ctrl-C ends the work with a `KeyboardInterrupt`.
    - The second prints a notice; saving goes on.
    - Any later one is a `KeyboardInterrupt` again.

    After `finishing`, the first Ctrl-C prints the notice. Its `KeyboardInterrupt` is raised when
    saving is done.

    It does nothing in threads other than the main one, and where SIGINT is ignored or has another
    handler.
    """

    def __init__(self) -> None:
        self._installed = False
        self._saving = False
        self._noticed = False
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._noticed and error is None:
            raise KeyboardInterrupt

    def finishing(self, stop: Callable[[], None] | None = None) -> None:
        """Declare that only saving is left. Ctrl-C then calls `stop`, if given, to shorten it."""
        self._stop = stop
        self._saving = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._noticed or not self._saving:
            self._saving = True
            raise KeyboardInterrupt
        self._noticed = True
        if self._stop is not None:
            self._stop()
        with contextlib.suppress(RuntimeError):  # Ctrl-C came while a line was written
            say(NOTICE)
