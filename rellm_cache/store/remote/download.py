"""Frames of a copy, when they are needed. In: a file's path. Out: the file, here and held.

In a plain folder nothing of this happens. In a copy of an object store, a file of frames that is
not here is fetched to a temporary name and renamed; two processes that want one file fetch it once.
"""

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rellm_cache.store.errors import removed_error
from rellm_cache.store.format import FRAMES, PART_NAME, WRITING
from rellm_cache.store.locks import hold_lock, removed_on_exit
from rellm_cache.store.remote.client import Remote
from rellm_cache.store.remote.eviction import open_in_use, reserve_space
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.utils.atomic_files import rename, sync_path


def part_origin_url(part: Path) -> str | None:
    """The URL of the cache root that a part is a copy from; None in a plain folder."""
    return origin_url(part.parents[1]) if PART_NAME.fullmatch(part.name) else None


def open_shard(file: Path) -> BinaryIO:
    """Open `<part>/frames/c/<k>/0` to be mapped; in a copy it is fetched first if need be.

    Raises:
        FileNotFoundError: it is nowhere.
        StoreError: its part was removed from the object store, or there is no room for it.
        RemoteError: it cannot be fetched now.
    """
    part = file.parents[3]
    url = part_origin_url(part)
    if url is None:
        return file.open("rb")
    while True:
        with contextlib.suppress(FileNotFoundError):
            return open_in_use(file)
        if not _fetch(part, file, url):
            return file.open("rb")  # which says that it is missing


def fetch_array(frames: Path) -> NDArray[np.uint8] | None:
    """Bring every chunk of a part's frames here and keep them, for zarr to read.

    Returns:
        A map that keeps them as long as it lives; None in a plain folder.

    Raises:
        StoreError: the part was removed from the object store, or there is no room.
        RemoteError: a chunk cannot be fetched now.
    """
    part = frames.parent
    url = part_origin_url(part)
    if url is None:
        return None
    with open_in_use(frames / "zarr.json") as opened:
        keeper = np.asarray(np.memmap(opened, np.uint8, "r"))
    for name in _stored(part, Remote(url)):
        if is_frames_file(name):
            _fetch(part, part / name, url)
    return keeper


@contextmanager
def complete_part(part: Path) -> Iterator[Path]:
    """A folder with every byte of a part as it is stored: itself, or a download that goes again.

    Raises:
        StoreError: the part was removed from the object store.
        RemoteError: it cannot be fetched now.
    """
    url = part_origin_url(part)
    if url is None:
        yield part
        return
    root = part.parents[1]
    folder = root / WRITING / f"{part.parent.name}-{part.name}-{secrets.token_hex(4)}"
    with hold_lock(folder), removed_on_exit(folder):
        remote = Remote(url)
        stored = _stored(part, remote)
        _download(remote, part, {name: folder / name for name in stored}, stored)
        yield folder


def is_frames_file(name: str) -> bool:
    """Whether a file of a part, by its name there, is one of those fetched on demand."""
    return name.startswith(f"{FRAMES}/c/")


def _stored(part: Path, remote: Remote) -> dict[str, int]:
    """Bytes of each file of a part in the object store."""
    found = remote.sizes(f"{part.parent.name}/{part.name}")
    if "zarr.json" not in found:
        raise removed_error(part)
    return found


def _fetch(part: Path, file: Path, url: str) -> bool:
    """Bring one file of frames here; False where the object store has no such file."""
    root, name = part.parents[1], file.relative_to(part).as_posix()
    lock = root / WRITING / "-".join(file.relative_to(root).parts)
    temporary = lock.with_name(f"{lock.name}-{secrets.token_hex(4)}")
    # The first waits for a process that fetches it now.
    with hold_lock(lock), hold_lock(temporary), removed_on_exit(temporary):
        if file.exists():
            return True
        remote = Remote(url)
        stored = _stored(part, remote)
        if name not in stored:
            return False
        fetched = reserve_space(root, stored[name], temporary)
        _download(remote, part, {name: fetched}, stored)
        file.parent.mkdir(parents=True, exist_ok=True)
        sync_path(fetched)
        rename(fetched, file)
    return True


def _download(remote: Remote, part: Path, files: dict[str, Path], sizes: dict[str, int]) -> None:
    prefix = f"{part.parent.name}/{part.name}"
    try:
        remote.download(
            {f"{prefix}/{name}": path for name, path in files.items()},
            {f"{prefix}/{name}": size for name, size in sizes.items()},
        )
    except FileNotFoundError as error:
        raise removed_error(part) from error
