"""Progress of long work, on standard error: a bar on a terminal, plain lines when piped."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0


class Tick(Protocol):
    """Reports `count` more units done, and a note shown beside the bar."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Count some units as done."""
        ...


def silent(count: int = 1, note: str = "") -> None:
    """A `Tick` that shows nothing, for callers who want none."""


def say(text: str) -> None:
    """A line for the user, on standard error."""
    print(text, file=sys.stderr, flush=True)


def is_spokesman() -> bool:
    """Whether this process is the one of its kind that speaks: launchers number them."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Tick]:
    """Show how far a loop of `total` units is, its rate and the time left."""
    console = Console(file=sys.stderr)
    if not is_spokesman():
        yield silent
    elif console.is_terminal:
        with _bar(console, title, total, unit) as tick:
            yield tick
    else:
        yield _Lines(title, total, unit)


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
    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self._start = self._shown = time.monotonic()

    def __call__(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown < PLAIN_SECONDS:
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
    """Two digits of a slow rate, one decimal of others: 0.012, 8.4, 120.0."""
    return f"{rate:.2g}" if rate < 1 else f"{rate:.1f}"
