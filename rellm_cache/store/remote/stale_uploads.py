"""Stale uploads: find and remove parts in an object store that no machine will complete.

A process that is killed during an upload leaves files without the part's `zarr.json`, which no
reader sees. Its machine uploads the rest when it writes to this URL again; if that never happens,
the files stay. An active upload is recognized by its age: each upload writes at least one file.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rellm_cache.store.format import METADATA
from rellm_cache.store.remote.client import Remote, files_by_part
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.store.remote.upload import pending_parts


@dataclass(frozen=True)
class StaleUpload:
    """An incomplete part in an object store."""

    place: str  # its URL
    files: int  # number of its files
    nbytes: int  # their size
    hours: float | None  # age of the newest file; None if the object store does not say
    removed: bool  # whether it was old enough and removed


def remove_stale_uploads(root: Path, hours: float) -> list[StaleUpload]:
    """Remove incomplete parts older than `hours`, except those pending on this machine.

    Returns all incomplete parts: removed, too young, or of unknown age. Does nothing in a plain
    folder. If another machine was only paused, nothing is lost: it compares all sizes before it
    completes a part, and uploads the files again.
    """
    url = origin_url(root)
    if url is None:
        return []
    remote = Remote(url)
    pending = {f"{part.parent.name}/{part.name}" for part in pending_parts(root)}
    found = []
    for part, files in sorted(files_by_part(remote.sizes()).items()):
        if METADATA in files or part in pending:
            continue
        age = _hours_since(remote, [f"{part}/{name}" for name in files])
        # Listed again: the upload may have continued since the first listing.
        old = age is not None and age >= hours and remote.sizes(part) == files
        if old:
            remote.remove(f"{part}/{name}" for name in files)
        nbytes = sum(files.values())
        found.append(StaleUpload(f"{url}/{part}", len(files), nbytes, age, removed=old))
    return found


def _hours_since(remote: Remote, names: Collection[str]) -> float | None:
    """Return the hours since the newest file was written; None if the times are unknown."""
    times = [remote.modified(name) for name in names]
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return None
    return (datetime.now(UTC) - max(known)).total_seconds() / 3600
