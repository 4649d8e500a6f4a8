"""Litter: names that only an operating system or a file server gives."""

from pathlib import Path

import pytest

from rellm_cache.utils.litter import is_litter

LITTER = ["._a.wav", "._", ".DS_Store", ".nfs000000000012ab0f00000001", "Thumbs.db", "thumbs.db",
          "desktop.ini", "Desktop.ini", ".fuse_hidden0000000100000001", "@eaDir"]  # fmt: skip
OTHERS = ["a.wav", "notes.txt", "zarr.json", "c", "0", ".nfs", ".nfsx", "part-000001-1f2e3d4c",
          ".writing", "DS_Store", "_a", "..", "lost+found", "Thumbs.db.txt"]  # fmt: skip


@pytest.mark.parametrize("name", LITTER)
def test_litter_is_known(name: str) -> None:
    assert is_litter(Path("folder") / name)


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_no_litter(name: str) -> None:
    assert not is_litter(Path("folder") / name)
