"""Where a complete part goes. In: its files under a temporary name. Out: a committed part.

In a plain folder that is one rename. In a copy of an object store the part is committed here
first, under `.outgoing/`; then its files are sent, its own `zarr.json` last, which makes it exist
for every reader; then it joins the copy. What a killed process left under `.outgoing/` is sent by
the next extraction.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rellm_cache.store.errors import UnreadableError
from rellm_cache.store.format import PART_NAME, WRITING, list_parts
from rellm_cache.store.locks import hold_lock, remove_path
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.eviction import evict_over_limit
from rellm_cache.store.remote.mirror_paths import OUTGOING, origin_url
from rellm_cache.utils.atomic_files import rename, rename_new

GROUP = "zarr.json"


def commit_part(temporary: Path, part: Path) -> None:
    """Make a complete, synced part appear as `<cache>/<store>/<name>`, whole, or not at all.

    Raises:
        OSError: it cannot be renamed; it is still at its temporary path.
        RemoteError: it is kept here and could not be sent.
    """
    root, store = part.parents[1], part.parent
    url = origin_url(root)
    if url is None:
        rename(temporary, part)
        return
    waiting = root / OUTGOING / store.name / part.name
    with hold_lock(
        _lock(waiting)
    ):  # before it can be seen there: no other process sends it meanwhile
        waiting.parent.mkdir(parents=True, exist_ok=True)
        rename(temporary, waiting)
        _upload_part(waiting, root, url)


def upload_pending(root: Path) -> None:
    """Send the parts that wait in a copy, for which it waits for processes that do so now.

    Does nothing in a plain folder.

    Raises:
        RemoteError: one could not be sent; it and those after it are kept.
    """
    url = origin_url(root)
    if url is None:
        return
    for waiting in pending_parts(root):
        with hold_lock(_lock(waiting)):
            if waiting.exists():
                _upload_part(waiting, root, url)


def pending_parts(root: Path, store: str = "*") -> list[Path]:
    """Parts of a copy that are not sent yet, oldest first in each store."""
    return sorted(root.glob(f"{OUTGOING}/{store}/part-*"))


def part_names(store: Path) -> list[str]:
    """Names that parts of a store have already, here and in the object store it is a copy of."""
    root = store.parent
    names = [part.name for part in (*list_parts(store), *pending_parts(root, store.name))]
    url = origin_url(root)
    if url is not None:
        # Where it cannot be reached now, the part is named by what was seen last, and kept.
        with contextlib.suppress(UnreadableError):
            names += filter(PART_NAME.fullmatch, Remote(url).children(store.name))
    return names


def upload_new_store(document: Path, store: Path) -> None:
    """Send the `zarr.json` of a store that is about to be made here, unless it is there already.

    Raises:
        RemoteError: it could not be sent.
    """
    url = origin_url(store.parent)
    if url is not None:
        remote = Remote(url)
        if GROUP not in remote.children(store.name):
            remote.upload({f"{store.name}/{GROUP}": document})


def upload_file(path: Path) -> None:
    """Bring a small file of a copy, as the list of failed clips, up to date where it belongs.

    Where it is not here, it goes there too. Does nothing in a plain folder.

    Raises:
        RemoteError: it could not be written or removed there.
    """
    for root in (path.parent, path.parents[1]):
        if (url := origin_url(root)) is not None:
            name = path.relative_to(root).as_posix()
            if path.exists():
                Remote(url).upload({name: path})
            else:
                Remote(url).remove([name])
            return


def remove_remote_part(part: Path) -> None:
    """Remove a part from the object store that its folder is a copy of, its `zarr.json` first.

    Raises:
        RemoteError: something of it is left there.
    """
    root = part.parents[1]
    url = origin_url(root)
    if url is not None:
        prefix = f"{part.parent.name}/{part.name}"
        remote = Remote(url)
        names = sorted(remote.sizes(prefix), key=lambda name: name != GROUP)
        remote.remove(f"{prefix}/{name}" for name in names)


def _lock(waiting: Path) -> Path:
    root, store = waiting.parents[2], waiting.parent.name
    return root / WRITING / f"{store}-{waiting.name}.outgoing"


def _upload_part(waiting: Path, root: Path, url: str) -> None:
    """Send a part and let it join the copy. What is there already, of the right size, stays."""
    prefix = f"{waiting.parent.name}/{waiting.name}"
    own = {file.relative_to(waiting).as_posix(): file for file in _files(waiting)}
    try:
        remote = Remote(url)
        there = remote.sizes(prefix)
        if GROUP not in there:
            body = {name: file for name, file in own.items() if name != GROUP}
            rest = {n: f for n, f in body.items() if there.get(n) != f.stat().st_size}
            if not rest:  # one all the same: by its age `unfinished` knows that somebody is at it
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
            remote.upload({f"{prefix}/{GROUP}": own[GROUP]})
    except UnreadableError as error:
        raise RemoteError(
            f"{error}. The part is kept in {waiting}; `rellm extract` to {url} sends it first"
        ) from error
    part = root / prefix
    if not rename_new(waiting, part):
        remove_path(waiting)  # another process has fetched it from there meanwhile
    evict_over_limit(root)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
