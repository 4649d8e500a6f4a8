"""Commit of a part: a rename in a plain folder, an upload in a mirror.

In a mirror the part is first renamed to `.outgoing/`. Then its files are uploaded, its `zarr.json`
last, because this file makes it visible to readers. Then it is renamed into the mirror. If the
process is killed, the next command that writes to this URL uploads the rest.
"""

import contextlib
from pathlib import Path

from rellm_cache.store.errors import UnreadableError
from rellm_cache.store.format import METADATA, PART_NAME, WRITING, list_parts
from rellm_cache.store.locks import remove_path
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.eviction import evict_over_limit
from rellm_cache.store.remote.mirror_paths import OUTGOING, origin_url
from rellm_cache.utils.atomic_files import rename, rename_new
from rellm_cache.utils.litter import is_litter
from rellm_cache.utils.locks import hold_lock


def commit_part(temporary: Path, part: Path) -> None:
    """Rename a complete, synced part to `part`, and in a mirror upload it.

    Raises `OSError` if it cannot be renamed; it stays at its temporary path. Raises `RemoteError`
    if it could not be uploaded; it is kept under `.outgoing/`.
    """
    root, store = part.parents[1], part.parent
    url = origin_url(root)
    if url is None:
        rename(temporary, part)
        return
    pending = root / OUTGOING / store.name / part.name
    with hold_lock(_lock(pending)):  # before the rename, so that no other process uploads it
        pending.parent.mkdir(parents=True, exist_ok=True)
        rename(temporary, pending)
        _upload_part(pending, root, url)


def upload_pending(root: Path) -> None:
    """Upload the pending parts of a mirror; wait for processes that are uploading some of them.

    Does nothing in a plain folder. If one cannot be uploaded, it and the later ones are kept.
    """
    url = origin_url(root)
    if url is None:
        return
    for pending in pending_parts(root):
        with hold_lock(_lock(pending)):
            if pending.exists():
                _upload_part(pending, root, url)


def pending_parts(root: Path, store: str = "*") -> list[Path]:
    """List parts of a mirror that are not uploaded yet, oldest first in each store."""
    return sorted(root.glob(f"{OUTGOING}/{store}/part-*"))


def part_names(store: Path) -> list[str]:
    """List the names of a store's parts, in a mirror those of the object store too."""
    root = store.parent
    names = [part.name for part in (*list_parts(store), *pending_parts(root, store.name))]
    url = origin_url(root)
    if url is not None:
        # If the object store cannot be reached, the last known names decide.
        with contextlib.suppress(UnreadableError):
            names += filter(PART_NAME.fullmatch, Remote(url).children(store.name))
    return names


def upload_new_store(document: Path, store: Path) -> None:
    """Upload the `zarr.json` of a new store of a mirror, unless the object store has it."""
    url = origin_url(store.parent)
    if url is not None:
        remote = Remote(url)
        if METADATA not in remote.children(store.name):
            remote.upload({f"{store.name}/{METADATA}": document})


def upload_file(path: Path) -> None:
    """Upload a small file of a mirror, such as a list of clips; if absent, remove it remotely."""
    for root in (path.parent, path.parents[1]):
        if (url := origin_url(root)) is not None:
            name = path.relative_to(root).as_posix()
            if path.exists():
                Remote(url).upload({name: path})
            else:
                Remote(url).remove([name])
            return


def remove_remote_part(part: Path) -> None:
    """Remove a part from the object store that its folder mirrors, its `zarr.json` first."""
    root = part.parents[1]
    url = origin_url(root)
    if url is not None:
        prefix = f"{part.parent.name}/{part.name}"
        remote = Remote(url)
        names = sorted(remote.sizes(prefix), key=lambda name: name != METADATA)
        remote.remove(f"{prefix}/{name}" for name in names)


def _lock(pending: Path) -> Path:
    root, store = pending.parents[2], pending.parent.name
    return root / WRITING / f"{store}-{pending.name}.outgoing"


def _upload_part(pending: Path, root: Path, url: str) -> None:
    """Upload a pending part, except files already there, and rename it into the mirror."""
    prefix = f"{pending.parent.name}/{pending.name}"
    files = (path for path in pending.rglob("*") if path.is_file() and not is_litter(path))
    own = {file.relative_to(pending).as_posix(): file for file in files}
    try:
        remote = Remote(url)
        there = remote.sizes(prefix)
        if METADATA not in there:
            body = {name: file for name, file in own.items() if name != METADATA}
            rest = {n: f for n, f in body.items() if there.get(n) != f.stat().st_size}
            if not rest:  # a file written again tells `stale_uploads` it is active
                smallest = min(body, key=lambda name: body[name].stat().st_size)
                rest = {smallest: body[smallest]}
            remote.upload({f"{prefix}/{name}": file for name, file in rest.items()})
            there = remote.sizes(prefix)
            for name, file in body.items():
                if there.get(name) != file.stat().st_size:
                    raise RemoteError(
                        f"{url}/{prefix}/{name}: found {there.get(name)} bytes after it was "
                        f"written, expected {file.stat().st_size}"
                    )
            remote.upload({f"{prefix}/{METADATA}": own[METADATA]})
    except UnreadableError as error:
        raise RemoteError(
            f"{error}. The part is kept in {pending}; `rellm extract` to {url} uploads it first"
        ) from error
    part = root / prefix
    if not rename_new(pending, part):
        remove_path(pending)  # another process has downloaded it in between
    evict_over_limit(root)
