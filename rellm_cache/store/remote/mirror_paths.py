"""Paths of mirrors: which local folder mirrors which URL, and paths as users know them.

The file `remote.json` marks a mirror and records its URL. All other code, in worker processes too,
passes plain paths and gets the URL from this module. Nothing here uses the network.
"""

import hashlib
import json
import os
import re
from pathlib import Path

from rellm_cache.errors import ConfigError, StoreError
from rellm_cache.utils.atomic_files import write_text
from rellm_cache.utils.json_files import load
from rellm_cache.utils.regular_files import NotRegularError

MARKER = "remote.json"
FORMAT = "rellm-copy"
FORMAT_VERSION = 1
OUTGOING = ".outgoing"  # committed parts not uploaded yet, by store
SLUG_LENGTH = 60


def is_url(location: str) -> bool:
    """Return whether a cache root given by a user is a URL, not a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.:-]+:/", location) is not None


def mirrors_folder() -> Path:
    """Return the folder of all mirrors: `RELLM_COPIES`, or one in the user's cache folder."""
    if own := os.environ.get("RELLM_COPIES"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rellm" / "copies"


def mirrors_max_bytes() -> int:
    """Return the limit of bytes for the frames of all mirrors: `RELLM_COPIES_GB`, or 100 GB."""
    text = os.environ.get("RELLM_COPIES_GB") or "100"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise ConfigError(f"RELLM_COPIES_GB: found {text!r}, expected a number of GB above 0")
    return int(min(gigabytes, 1e9) * 1e9)


def mirror_folder(url: str, endpoint: str) -> Path:
    """Return the mirror's folder for a URL, existing or not; each service has its own folder."""
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", url)[:SLUG_LENGTH].strip("-")
    identity = hashlib.sha256(f"{endpoint} {url}".encode()).hexdigest()
    return mirrors_folder() / f"{slug}-{identity[:12]}"


def mark_mirror(root: Path, url: str) -> None:
    """Mark a folder as the mirror of a URL; `StoreError` if its mark names another."""
    if (found := origin_url(root)) is not None:
        if found != url:
            raise StoreError(
                f"{root / MARKER}: found a mirror of {found}, expected one of {url}; remove this "
                "folder"
            )
        return
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "url": url}
    write_text(root / MARKER, json.dumps(document) + "\n")


def origin_url(root: Path) -> str | None:
    """Return the URL that a cache root mirrors; None for a plain folder.

    Raises `StoreError` if the mark was altered or has a newer version.
    """
    try:
        own = load(root / MARKER)
        known = (own["format"], own["format_version"]) == (FORMAT, FORMAT_VERSION)
        url = own["url"] if known else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (NotRegularError, ValueError, LookupError, TypeError):
        url = None
    if not isinstance(url, str):
        raise StoreError(
            f"{root / MARKER}: not the mark of a mirror, or of a newer version; remove the folder, "
            f"unless there are parts in {root / OUTGOING}: it is downloaded again"
        )
    return url


def display_path(path: Path) -> str:
    """Return a path to show to the user: in a mirror, the URL."""
    for root, below in ((path, ""), *((p, path.relative_to(p).as_posix()) for p in path.parents)):
        if (url := origin_url(root)) is not None:
            return f"{url}/{below}".rstrip("/")
    return str(path)
