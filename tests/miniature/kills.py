"""Processes that die in the middle of their work, for tests of kills."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

# `killed_after(2)`: what runs within dies at its third row of a journal; the rows it wrote.
KilledAfter = Callable[[int], AbstractContextManager[list[dict[str, Any]]]]
