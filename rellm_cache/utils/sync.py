"""Syncing of files and folders to the disk (fsync)."""

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Sync one file or folder to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and the missing ones above it, unless it exists; a power cut keeps them.

    Without this, a file that is on the disk could lie in a folder that its parent does not name.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_path(folder.parent)
