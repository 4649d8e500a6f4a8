"""Console output: progress bars, notes, counts, percentages and number ranges.

Progress and notes go to standard error: a bar on a terminal, plain lines in a pipe.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rellm_cache.errors import ConfigError


class Tick(Protocol):
    """Callback that reports `count` more units as done and shows a note beside the bar."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Report progress."""


def silent(count: int = 1, note: str = "") -> None:
    """Ignore progress: a `Tick` that shows nothing."""


def say(text: str) -> None:
    """Print a line for the user on standard error."""
    print(text, file=sys.stderr, flush=True)


@cache
def say_once(text: str) -> None:
    """Print a line for the user once in this process, and only in the main process."""
    if is_main_process():
        say(text)


def is_main_process() -> bool:
    """Whether this process has rank 0: of several processes of a launcher, only this one prints."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(title: str, total: int, unit: str, plain_seconds: float = 10.0) -> Iterator[Tick]:
    """Show how many of `total` units are done, their rate and the time left.

    Where the output is not a terminal, `plain_seconds` is the shortest time between two lines.
    """
    console = Console(file=sys.stderr)
    if not is_main_process():
        yield silent
    elif console.is_terminal:
        with _bar(console, title, total, unit) as tick:
            yield tick
    else:
        yield _Lines(title, total, unit, plain_seconds)


@contextmanager
def _bar(console: Console, title: str, total: int, unit: str) -> Iterator[Tick]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    start = time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, rate=unit, note="")

        def tick(count: int = 1, note: str = "") -> None:
            bar.advance(task, count)
            rate = bar.tasks[0].completed / max(time.monotonic() - start, 1e-6)
            bar.update(task, rate=f"{unit}, {_digits(rate)} {unit}/s", note=note)

        yield tick


class _Lines:
    def __init__(self, title: str, total: int, unit: str, seconds: float) -> None:
        self._title, self._total, self._unit, self._seconds = title, total, unit, seconds
        self._done = 0
        self._start = self._shown = time.monotonic()

    def __call__(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown < self._seconds:
            return
        self._shown = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate if rate else 0
        parts = [
            f"{self._title}: {self._done}/{self._total} {self._unit}",
            f"{_digits(rate)} {self._unit}/s",
            f"{left:.0f} s left",
            note,
        ]
        say(", ".join(part for part in parts if part))


def _digits(rate: float) -> str:
    """Format a rate: two digits below 1, else one decimal (0.012, 8.4, 120.0)."""
    return f"{rate:.2g}" if rate < 1 else f"{rate:.1f}"


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count and its noun: `1 clip`, `3 clips`; `many` is the plural if not with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def percent(value: float, sign: str = "") -> str:
    """Format 0.7654 as 76.5 %, or as +76.5 % with `sign="+"`."""
    return f"{100 * value:{sign}.1f} %"


def duration(seconds: float | None) -> str:
    """Format seconds as seconds, minutes or hours."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


MOST_NUMBERS = 10_000  # of one range


def parse_ranges(text: str, what: str) -> tuple[int, ...]:
    """Return the numbers of a list like `1-16` or `17,18,20-22`, each once; none for empty text.

    Raises `ConfigError` if the text is not such a list; `what` names the numbers in its message.
    """
    numbers: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise ConfigError(f"{what} {text!r:.80}: expected numbers and ranges like 1-16,18")
        if last - first >= MOST_NUMBERS:
            raise ConfigError(
                f"{what} {text!r:.80}: found a range of {last - first + 1} numbers, expected at "
                f"most {MOST_NUMBERS}"
            )
        numbers.extend(range(first, last + 1))
    return tuple(dict.fromkeys(numbers))
