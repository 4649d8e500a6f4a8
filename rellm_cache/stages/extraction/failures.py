"""The list of failed clips beside a store. In: what failed now. Out: the list, exact.

Several extractions may bring one list up to date at the same moment: each holds the cache's lock
while it reads the list and writes it anew.
"""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rellm_cache.corpus.manifest import read_lines, write_lines
from rellm_cache.stages.extraction.work import Failure
from rellm_cache.store.layout import failures_path

LOCK = ".failed.lock"


def record_failures(store: Path, seen: set[str], failures: Iterable[Failure]) -> None:
    """Replace the lines of the clips in `seen` by `failures`; lines of other clips stay."""
    path = failures_path(store)
    rows = [vars(failure) for failure in failures]
    if not rows and not path.exists():
        return
    with _locked(store.parent):
        kept = [r for _, r in read_lines(path) if r["id"] not in seen] if path.exists() else []
        if kept or rows:
            write_lines(path, kept + rows)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
