"""Ctrl-C, where work ends by keeping what it made. In: the work. Out: its end, undisturbed once.

Python raises `KeyboardInterrupt` wherever the main thread is, also while it handles an earlier one:
a second Ctrl-C, or the same one passed on by a launcher, would cut off the commit that the first
began.
"""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Self

from rellm_cache.utils.console import say

NOTICE = (
    "Keeping what is done so far. Ctrl-C again leaves without it: the same command then does it "
    "again."
)


class Interrupts:
    """Around work that keeps what it made when it is left. Of each Ctrl-C while it is entered:

    - the first ends the work, by a `KeyboardInterrupt`;
    - the next is answered with a notice, and the end goes on;
    - any further one is a `KeyboardInterrupt` again.

    Work that says that it is `finishing` is past the first. One that was answered then is raised
    when the end is done.

    Where Ctrl-C is ignored, or someone else's to handle, and in other threads than the main one, it
    does nothing.
    """

    def __init__(self) -> None:
        self._installed = False
        self._ending = False
        self._answered = False
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
        if self._answered and error is None:
            raise KeyboardInterrupt

    def finishing(self, stop: Callable[[], None] | None = None) -> None:
        """Nothing is left but to finish; `stop`, if any, makes it shorter, should Ctrl-C come."""
        self._stop = stop
        self._ending = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._answered or not self._ending:
            self._ending = True
            raise KeyboardInterrupt
        self._answered = True
        if self._stop is not None:
            self._stop()
        with contextlib.suppress(RuntimeError):  # Ctrl-C came while a line was written
            say(NOTICE)
