"""Parts that nobody has finished sending. In: a copy, an age. Out: none older than that, there.

A writer that is killed while it sends a part leaves files in the object store that no reader sees,
since the part's own `zarr.json` would have come last. The machine that has the part sends the rest
when it writes there again; if it is gone, they stay for ever. What is being sent is known by its
age: whoever sends a part begins with a file, even if all are there.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rellm_cache.store.format import PART_NAME
from rellm_cache.store.remote.client import Remote
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.store.remote.upload import GROUP, pending_parts


@dataclass(frozen=True)
class StaleUpload:
    """A part of which an object store has files, but not the one that completes it.

    Attributes:
        place: its URL.
        files: how many there are.
        nbytes: that they take.
        hours: since the newest was written; None where the object store does not tell.
        removed: whether it was old enough.
    """

    place: str
    files: int
    nbytes: int
    hours: float | None
    removed: bool


def remove_stale_uploads(root: Path, hours: float) -> list[StaleUpload]:
    """Remove unfinished parts whose newest file is older; those that this machine sends are left.

    Does nothing in a plain folder. A part that is removed under a machine that has only paused is
    not lost: it is sent anew, or seen to be incomplete before it is completed.

    Returns:
        What was removed, and what is too young or of unknown age.

    Raises:
        RemoteError: the object store cannot be reached, read or written.
    """
    url = origin_url(root)
    if url is None:
        return []
    remote = Remote(url)
    here = {f"{part.parent.name}/{part.name}" for part in pending_parts(root)}
    found = []
    for part, files in sorted(_incomplete_parts(remote).items()):
        if part in here:
            continue
        age = _hours_since(remote, [f"{part}/{name}" for name in files])
        # Listed again: it may have been finished, or gone on, since it was listed with the others.
        old = age is not None and age >= hours and remote.sizes(part) == files
        if old:
            remote.remove(f"{part}/{name}" for name in files)
        place, nbytes = f"{url}/{part}", sum(files.values())
        found.append(StaleUpload(place, len(files), nbytes, age, removed=old))
    return found


def _incomplete_parts(remote: Remote) -> dict[str, dict[str, int]]:
    """`<store>/<part>` → bytes of each of its files, of parts without their own `zarr.json`."""
    parts: dict[str, dict[str, int]] = {}
    for name, size in remote.sizes().items():
        store, part, file = (*name.split("/", 2), "", "")[:3]
        if file and PART_NAME.fullmatch(part):
            parts.setdefault(f"{store}/{part}", {})[file] = size
    return {part: files for part, files in parts.items() if GROUP not in files}


def _hours_since(remote: Remote, names: Collection[str]) -> float | None:
    """Hours since the newest of some files was written; None where nobody can tell."""
    times = [remote.modified(name) for name in names]
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return None
    return (datetime.now(UTC) - max(known)).total_seconds() / 3600
