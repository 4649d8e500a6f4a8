"""Limit of steps and memory for chat templates, which are programs and could run without end.

jinja's sandbox keeps a template from files and other code, but not from nested loops or from texts
that double. Python's own trace counts the lines that run in the block.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rellm_cache.errors import ConfigError

STEPS = 200_000  # published templates take about 400 for a request
TEMPLATE = "<template>"  # jinja's name for the file of a template that is a text
PEAK_KB = 1 << 18  # 256 MiB; a template makes some kB


@contextmanager
def limited_steps(limit: int = STEPS, more_kb: int = PEAK_KB) -> Iterator[None]:
    """Stop a block after `limit` lines of Python in this thread, or if it needs much memory.

    One line is not interrupted, so that a single huge operation still needs its memory.

    Raises `ConfigError` if a limit is reached.
    """
    left, before, peak = limit, sys.gettrace(), _peak_kb()

    def count(frame: FrameType, event: str, value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConfigError(f"found more than {limit:,} steps, expected an end")
        # Asking takes as long as twenty lines, so library code is left out.
        in_template = frame.f_code.co_filename == TEMPLATE
        if in_template and (grown := _peak_kb() - peak) > more_kb:
            raise ConfigError(f"found a text that needs {grown / 1e6:.1f} GB, expected some kB")
        return count

    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _peak_kb() -> int:
    """The most memory that this process had so far, in KiB on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
