"""Download of frames into a mirror at their first use; plain folders need no download.

A file is downloaded to a temporary name and renamed. If two processes need it, one downloads it and
the other waits.
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
from rellm_cache.store.locks import removed_on_exit
from rellm_cache.store.remote.client import Remote
from rellm_cache.store.remote.eviction import open_in_use, reserve_space
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.utils.atomic_files import rename
from rellm_cache.utils.locks import hold_lock
from rellm_cache.utils.regular_files import open_regular
from rellm_cache.utils.sync import sync_path


def part_origin_url(part: Path) -> str | None:
    """Return the URL of the cache root that a part is mirrored from; None in a plain folder."""
    return origin_url(part.parents[1]) if PART_NAME.fullmatch(part.name) else None


def part_of_frames(path: Path) -> Path:
    """Return the part that a file or folder under its `frames/` belongs to."""
    return next(folder for folder in path.parents if folder.name == FRAMES).parent


def open_shard(file: Path) -> BinaryIO:
    """Open a shard file of a part's frames; in a mirror, download it if it is missing.

    Raises `FileNotFoundError` if it does not exist, not even in the object store; `StoreError` if
    its part was removed from the object store, or there is no space.
    """
    part = part_of_frames(file)
    url = part_origin_url(part)
    if url is None:
        return open_regular(file)
    while True:
        with contextlib.suppress(FileNotFoundError):
            return open_in_use(file)
        if not _fetch(part, file, url):
            return open_regular(file)  # raises FileNotFoundError


def fetch_array(frames: Path) -> NDArray[np.uint8] | None:
    """Download every chunk of a part's frames, for zarr to read, and protect them from eviction.

    Returns a memory map that protects them as long as it exists; None in a plain folder. Raises
    `StoreError` if the part was removed from the object store, or there is no space.
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
    """Yield a folder with all files of a part as stored: the part, or a temporary download.

    Raises `StoreError` if the part was removed from the object store.
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
    """Return whether a file of a part, by its name in the part, holds frames."""
    return name.startswith(f"{FRAMES}/c/")


def _stored(part: Path, remote: Remote) -> dict[str, int]:
    """Return the size of each file of a part in the object store."""
    found = remote.sizes(f"{part.parent.name}/{part.name}")
    if "zarr.json" not in found:
        raise removed_error(part)
    return found


def _fetch(part: Path, file: Path, url: str) -> bool:
    """Download one file of frames; return False if the object store does not have it."""
    root, name = part.parents[1], file.relative_to(part).as_posix()
    lock = root / WRITING / "-".join(file.relative_to(root).parts)
    temporary = lock.with_name(f"{lock.name}-{secrets.token_hex(4)}")
    # The first lock waits for a process that is downloading this file.
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
