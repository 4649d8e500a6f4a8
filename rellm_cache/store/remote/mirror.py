"""Mirror of a cache root in an object store: open it, pull changes, push pending parts.

A mirror is a local folder with the layout of a cache root. It always has the columns and metadata
of every complete part, which are small. Frames are downloaded when first mapped (`download`) and
evicted over a size limit (`eviction`). A part is complete if its own `zarr.json` exists.
"""

import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from rellm_cache.errors import StoreError
from rellm_cache.store.commit import remove_local_part
from rellm_cache.store.format import (
    METADATA,
    PART_NAME,
    WRITING,
    clip_lists,
    failures_path,
    list_stores,
)
from rellm_cache.store.locks import remove_stale, removed_on_exit
from rellm_cache.store.remote.client import Remote, RemoteError, files_by_part
from rellm_cache.store.remote.download import is_frames_file
from rellm_cache.store.remote.mirror_paths import is_url, mark_mirror, mirror_folder, origin_url
from rellm_cache.store.remote.upload import pending_parts, upload_pending
from rellm_cache.store.transcripts import is_transcripts
from rellm_cache.utils.atomic_files import rename, rename_new, sync_tree
from rellm_cache.utils.console import progress
from rellm_cache.utils.locks import hold_lock
from rellm_cache.utils.regular_files import read_regular
from rellm_cache.utils.sync import sync_path

PARTS_AT_ONCE = 32
ATTEMPTS = 3

Sizes = Mapping[str, int]


def open_mirror(url: str) -> Path:
    """Return the mirror of a cache root at a URL, after pulling all changes.

    Raises `ConfigError` if the URL is not valid, or the library for its protocol is not installed.
    """
    remote = Remote(url)
    root = mirror_folder(remote.url, remote.endpoint)
    mark_mirror(root, remote.url)
    pull(root)
    return root


def cache_folder(location: str | Path) -> Path:
    """Return the folder of a cache root: a path as it is, for a URL its mirror, up to date.

    Raises what `open_mirror` raises.
    """
    return open_mirror(str(location)) if is_url(str(location)) else Path(location)


def store_folder(location: str | Path) -> Path:
    """Return the folder of one store, given by its path or URL; `StoreError` if there is none."""
    if not is_url(str(location)):
        if not Path(location).is_dir():
            raise StoreError(f"{location}: no such folder; `rellm cache info` lists the stores")
        return Path(location)
    root, _, name = str(location).rstrip("/").rpartition("/")
    store = open_mirror(root) / name
    if not store.is_dir():
        raise StoreError(f"{location}: no such store; `rellm cache info {root}` lists the stores")
    return store


def sync_mirror(root: Path) -> None:
    """Upload pending parts, then pull; called before writing. Does nothing in a plain folder."""
    upload_pending(root)
    pull(root)


def pull(root: Path) -> None:
    """Download new metadata and columns, remove deleted parts; does nothing in a plain folder."""
    url = origin_url(root)
    if url is None:
        return
    remove_stale(root)
    temporary = root / WRITING / f"pull-{secrets.token_hex(4)}"
    with hold_lock(root / WRITING / "pull"), hold_lock(temporary):
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError), removed_on_exit(temporary):
                _pull_once(root, Remote(url), temporary)
                return
    # At each attempt a file was removed after it was listed.
    raise RemoteError(f"{url}: it changes while it is read; run the same command again")


def _pull_once(root: Path, remote: Remote, temporary: Path) -> None:
    # Listed before the object store, so that a part uploaded in between does not count as gone.
    parts = [path for path in root.glob("*/part-*") if PART_NAME.fullmatch(path.name)]
    stores = list(list_stores(root))
    sizes = remote.sizes()
    _pull_documents(root, remote, sizes, temporary)
    _pull_parts(root, remote, sizes, temporary)
    for part in parts:
        if f"{part.parent.name}/{part.name}/{METADATA}" not in sizes:
            remove_local_part(part)
    for store in stores:
        if f"{store.name}/{METADATA}" not in sizes:
            (store / METADATA).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # keep the parts of a damaged store
                store.rmdir()


def _pull_documents(root: Path, remote: Remote, sizes: Sizes, temporary: Path) -> None:
    """Make the metadata of stores, transcripts and lists of clips equal to the object store's."""
    stores = sorted({name.partition("/")[0] for name in sizes if _in_store(name)})
    documents = [path for store in stores for path in clip_lists(root / store)]
    documents += [root / store / METADATA for store in stores]
    transcripts = [root / name for name in sizes if is_transcripts(name)]
    documents += [d for path in transcripts for d in (path, failures_path(path.with_suffix("")))]
    names = [path.relative_to(root).as_posix() for path in documents]
    there = {name: temporary / name for name in names if name in sizes}
    remote.download(there, sizes)
    for name, path in zip(names, documents, strict=True):
        if name not in there:
            path.unlink(missing_ok=True)
        elif not path.exists() or read_regular(path) != read_regular(there[name]):
            path.parent.mkdir(exist_ok=True)
            sync_path(there[name])
            rename(there[name], path)


def _in_store(name: str) -> bool:
    """Return whether a file is the metadata of a store or of a part."""
    pieces = name.split("/")
    is_part = len(pieces) == 3 and PART_NAME.fullmatch(pieces[1]) is not None
    return pieces[-1] == METADATA and (len(pieces) == 2 or is_part)


def _pull_parts(root: Path, remote: Remote, sizes: Sizes, temporary: Path) -> None:
    """Download the small files of complete parts that the mirror lacks."""
    parts = files_by_part(sizes)
    # In this order: a part that another process is uploading moves from the first to the second.
    pending = {f"{part.parent.name}/{part.name}" for part in pending_parts(root)}
    absent = [
        part
        for part, files in parts.items()
        if METADATA in files and part not in pending and not (root / part).exists()
    ]
    with progress("Fetching the index", len(absent), "parts") as tick:
        for start in range(0, len(absent), PARTS_AT_ONCE):
            group = absent[start : start + PARTS_AT_ONCE]
            names = [f"{p}/{file}" for p in group for file in parts[p] if not is_frames_file(file)]
            remote.download({name: temporary / name for name in names}, sizes)
            for part in group:
                sync_tree(temporary / part)
                (root / part).parent.mkdir(exist_ok=True)
                # Keep a part that another process has uploaded in between: it has the frames too.
                rename_new(temporary / part, root / part)
                tick()
