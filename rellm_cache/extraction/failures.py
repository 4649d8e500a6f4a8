"""List of failed clips, stored next to a feature store.

Several extractions may update one list at the same time: each holds the lock of the list while it
reads and replaces it.
"""

from collections.abc import Iterable
from pathlib import Path

from rellm_cache.corpus.manifest import read_lines
from rellm_cache.extraction.messages import Failure
from rellm_cache.store.format import WRITING, failures_path
from rellm_cache.store.remote.upload import upload_file
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.locks import hold_lock


def record_failures(store: Path, seen: set[str], failures: Iterable[Failure]) -> None:
    """Replace the lines of the clips in `seen` with `failures`; keep the lines of other clips."""
    path = failures_path(store)
    rows = [vars(failure) for failure in failures]
    if not rows and not path.exists():
        return
    with hold_lock(store.parent / WRITING / path.name):
        kept = [r for _, r in read_lines(path) if r["id"] not in seen] if path.exists() else []
        if kept or rows:
            write_lines(path, kept + rows)
        else:
            path.unlink(missing_ok=True)
        upload_file(path)
