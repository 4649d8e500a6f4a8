"""Shards of an output file: jobs of an array make its rows side by side, the last one joins them.

A job holds its own part and shares the file with the others. It appends rows to a journal of its
part. The job that ends as the last one finds all rows in the journals and writes the file. A call
without a shard does it, too, after it has made the rows that are missing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rellm_cache.utils.console import counted
from rellm_cache.utils.locks import LOCK, hold_file, hold_folder, share_file
from rellm_cache.utils.resumable_table import ResultTable, journal_beside
from rellm_cache.workers.options import Shard


class Output:
    """A file that this process writes, or a part of it.

    Attributes:
        part: name of the part, for `ResultTable`; "" without a shard.
    """

    def __init__(self, shard: Shard | None, take: Callable[[], bool]) -> None:
        self._shard = shard
        self._take = take
        self.part = part_name(shard)

    def why_unfinished(
        self, table: ResultTable, unit: str, find_missing: Callable[[], Iterable[str]]
    ) -> str:
        """Why the file cannot be written yet; empty if this process may write it now.

        The table then has the rows of all parts.

        Args:
            unit: name of a row, for the text.
            find_missing: returns the ids of rows that are not there.
        """
        if self._shard is None:
            return ""
        is_last = self._take()
        table.join()
        count = self._shard.count
        missing = Counter(Shard.of(name, count).number for name in find_missing())
        if missing:
            shards = ", ".join(f"{number}/{count}" for number in sorted(missing))
            what = counted(missing.total(), f"{unit} remains", f"{unit}s remain")
            return f"{what}, of shard{'s' if len(missing) > 1 else ''} {shards}"
        return "" if is_last else "all rows are made, and another job of the array joins them"


@contextmanager
def hold_output(path: Path, shard: Shard | None, lock: Path | None = None) -> Iterator[Output]:
    """Hold a file, or the part of a shard; `RellmError` if a live process holds it.

    Args:
        lock: the lock file that the jobs share; None for that of `hold_file`.
    """
    if shard is None:
        with hold_file(path):
            yield Output(None, lambda: True)
        return
    with hold_file(journal_beside(path, part_name(shard))), share_file(path, lock) as take:
        yield Output(shard, take)


@contextmanager
def hold_results(path: Path, shard: Shard | None) -> Iterator[Output]:
    """Hold the folder of a file of results, or the part of a shard; as `hold_output`.

    The jobs of an array share the folder, and other commands that write it are refused.
    """
    if shard is None:
        with hold_folder(path.parent):
            yield Output(None, lambda: True)
        return
    with hold_output(path, shard, path.parent / LOCK) as output:
        yield output


def part_name(shard: Shard | None) -> str:
    """The name of a shard's part: `2-of-8`; "" without a shard."""
    return "" if shard is None else f"{shard.number}-of-{shard.count}"
