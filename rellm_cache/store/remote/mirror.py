"""A cache root at a URL. In: the URL. Out: the folder that is its copy, up to date but for frames.

Columns and metadata of every complete part are small and always here, so that everything that
reads a cache reads the copy; frames come when they are mapped (`fetch`), within a bound (`room`).
A part is complete when its own `zarr.json` is there.
"""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from rellm_cache.store.commit import remove_local_part
from rellm_cache.store.format import PART_NAME, WRITING, clip_lists, failures_path, list_stores
from rellm_cache.store.locks import hold_lock, remove_stale, removed_on_exit
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.download import is_frames_file
from rellm_cache.store.remote.mirror_paths import mark_mirror, mirror_folder, origin_url
from rellm_cache.store.remote.upload import GROUP, pending_parts, upload_pending
from rellm_cache.store.transcripts import is_transcripts
from rellm_cache.utils.atomic_files import rename, rename_new, sync_path, sync_tree
from rellm_cache.utils.console import progress

PARTS_AT_ONCE = 32
ATTEMPTS = 3

Sizes = Mapping[str, int]


def open_mirror(url: str) -> Path:
    """The folder that serves a cache root at a URL, with all its complete parts.

    Raises:
        ConfigError: the URL cannot be used, or the library for its protocol is not installed.
        RemoteError: it cannot be reached or read.
    """
    remote = Remote(url)
    root = mirror_folder(remote.url, remote.endpoint)
    mark_mirror(root, remote.url)
    pull(root)
    return root


def sync_mirror(root: Path) -> None:
    """Before something is written: send what waits to be sent, then `pull`.

    Raises:
        RemoteError: the object store cannot be reached, read or written.
    """
    upload_pending(root)
    pull(root)


def pull(root: Path) -> None:
    """Bring a copy up to date: fetch what is new, remove what is gone. A plain folder is left be.

    Raises:
        RemoteError: the object store cannot be reached or read.
    """
    url = origin_url(root)
    if url is None:
        return
    remove_stale(root)
    temporary = root / WRITING / f"pull-{secrets.token_hex(4)}"
    with hold_lock(root / WRITING / "pull"), hold_lock(temporary):
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError), removed_on_exit(temporary):
                _bring_up_to_date(root, Remote(url), temporary)
                return
    # Each time something was removed there after it was listed.
    raise RemoteError(f"{url}: it changes while it is read; run the same command again")


def _bring_up_to_date(root: Path, remote: Remote, temporary: Path) -> None:
    # Looked at before the object store is: what is sent meanwhile is not gone from it.
    parts = [path for path in root.glob("*/part-*") if PART_NAME.fullmatch(path.name)]
    stores = list(list_stores(root))
    sizes = remote.sizes()
    _fetch_documents(root, remote, sizes, temporary)
    _fetch_parts(root, remote, sizes, temporary)
    for part in parts:
        if f"{part.parent.name}/{part.name}/{GROUP}" not in sizes:
            remove_local_part(part)
    for store in stores:
        if f"{store.name}/{GROUP}" not in sizes:
            (store / GROUP).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # parts of a damaged store stay
                store.rmdir()


def _fetch_documents(root: Path, remote: Remote, sizes: Sizes, temporary: Path) -> None:
    """Make metadata of stores, transcripts and the lists beside them what they are there."""
    stores = sorted({name.partition("/")[0] for name in sizes if _in_store(name)})
    documents = [path for store in stores for path in clip_lists(root / store)]
    documents += [root / store / GROUP for store in stores]
    transcripts = [root / name for name in sizes if is_transcripts(name)]
    documents += [d for path in transcripts for d in (path, failures_path(path.with_suffix("")))]
    names = [path.relative_to(root).as_posix() for path in documents]
    there = {name: temporary / name for name in names if name in sizes}
    remote.download(there, sizes)
    for name, path in zip(names, documents, strict=True):
        if name not in there:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.read_bytes() != there[name].read_bytes():
            path.parent.mkdir(exist_ok=True)
            sync_path(there[name])
            rename(there[name], path)


def _in_store(name: str) -> bool:
    """Whether a file makes the folder it is in a store: its metadata, or that of a part."""
    pieces = name.split("/")
    is_part = len(pieces) == 3 and PART_NAME.fullmatch(pieces[1]) is not None
    return pieces[-1] == GROUP and (len(pieces) == 2 or is_part)


def _fetch_parts(root: Path, remote: Remote, sizes: Sizes, temporary: Path) -> None:
    """Copy what is small of the complete parts that are not here."""
    files: dict[str, list[str]] = {}  # part → its small files
    for name in sizes:
        store, part, file = (*name.split("/", 2), "", "")[:3]
        if PART_NAME.fullmatch(part) and f"{store}/{part}/{GROUP}" in sizes:
            small = files.setdefault(f"{store}/{part}", [])
            if not is_frames_file(file):
                small.append(name)
    # In this order: a part that another process is sending moves from the first to the second.
    waiting = {f"{part.parent.name}/{part.name}" for part in pending_parts(root)}
    absent = [part for part in files if part not in waiting and not (root / part).exists()]
    with progress("Fetching the index", len(absent), "parts") as tick:
        for group in _groups(absent):
            names = [name for part in group for name in files[part]]
            remote.download({name: temporary / name for name in names}, sizes)
            for part in group:
                _join(temporary / part, root / part)
                tick()


def _join(fetched: Path, part: Path) -> None:
    sync_tree(fetched)
    part.parent.mkdir(exist_ok=True)
    # Not renamed where another process has sent this very part: its copy has the frames too.
    rename_new(fetched, part)


def _groups(parts: list[str]) -> Iterator[list[str]]:
    return (parts[i : i + PARTS_AT_ONCE] for i in range(0, len(parts), PARTS_AT_ONCE))
