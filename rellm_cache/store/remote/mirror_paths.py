"""Which folders are copies of an object store. In: a path. Out: the URL it is a copy of, if any.

A cache root at a URL is served by a local folder of exactly the layout of a cache root, marked by
the file `remote.json`. So a plain path flows through all stages and to worker processes, and what
reads or writes a file asks here where it belongs. Nothing here reaches for the network.
"""

import hashlib
import json
import os
import re
from pathlib import Path

from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.utils.atomic_files import write_text

MARKER = "remote.json"
FORMAT = "rellm-copy"
FORMAT_VERSION = 1
OUTGOING = ".outgoing"  # committed parts that are not uploaded yet, by store
SLUG_LENGTH = 60


def is_url(location: str) -> bool:
    """Whether a cache root as a user gives it is meant as a URL rather than a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.:-]+:/", location) is not None


def mirrors_folder() -> Path:
    """Where copies of cache roots at URLs lie: `RELLM_COPIES`, or the user's cache folder."""
    if own := os.environ.get("RELLM_COPIES"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rellm" / "copies"


def mirrors_max_bytes() -> int:
    """Bytes that the frames of all copies together may take: `RELLM_COPIES_GB`, or 100 GB.

    Raises:
        ConfigError: it is no positive number.
    """
    text = os.environ.get("RELLM_COPIES_GB") or "100"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise ConfigError(f"RELLM_COPIES_GB: found {text!r}, expected a number of GB above 0")
    return int(min(gigabytes, 1e9) * 1e9)


def mirror_folder(url: str, endpoint: str) -> Path:
    """The folder that is the copy of a URL, made or not; equal buckets of two services differ."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", url)[:SLUG_LENGTH].strip("-")
    identity = hashlib.sha256(f"{endpoint} {url}".encode()).hexdigest()
    return mirrors_folder() / f"{slug}-{identity[:12]}"


def mark_mirror(root: Path, url: str) -> None:
    """Make a folder the copy of a URL.

    Raises:
        StoreError: it is the copy of another, or was altered.
    """
    if (found := origin_url(root)) is not None:
        if found != url:
            raise StoreError(
                f"{root / MARKER}: found a copy of {found}, expected one of {url}; remove this "
                "folder"
            )
        return
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "url": url}
    write_text(root / MARKER, json.dumps(document) + "\n")


def origin_url(root: Path) -> str | None:
    """The URL that a cache root is a copy of; None for a plain folder.

    Raises:
        StoreError: the folder's mark was altered, or is of a newer version.
    """
    try:
        text = (root / MARKER).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        own = json.loads(text)
        known = (own["format"], own["format_version"]) == (FORMAT, FORMAT_VERSION)
        url = own["url"] if known else None
    except (ValueError, LookupError, TypeError):
        url = None
    if not isinstance(url, str):
        raise StoreError(
            f"{root / MARKER}: not the mark of a copy in a form that this version knows; unless "
            f"{root / OUTGOING} holds parts, remove the folder: it is made again"
        )
    return url


def display_path(path: Path) -> str:
    """What a user knows a path by: in a copy the URL of what it is a copy of."""
    for root, below in ((path, ""), *((p, path.relative_to(p).as_posix()) for p in path.parents)):
        if (url := origin_url(root)) is not None:
            return f"{url}/{below}".rstrip("/")
    return str(path)
