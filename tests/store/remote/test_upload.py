"""Upload of parts: a part's zarr.json is last, and parts that fail are kept."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.store.format import StoreInfo, list_parts
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.mirror import open_mirror, sync_mirror
from rellm_cache.store.remote.upload import pending_parts
from rellm_cache.store.writer import StoreWriter

Clips = dict[str, np.ndarray]
NO_AUDIO = np.zeros(32, np.uint8)


def add(root: Path, info: StoreInfo, name: str, frames: np.ndarray) -> Path:
    with StoreWriter(root, info) as writer:
        writer.add(name, NO_AUDIO, frames)
    return writer.path


def test_the_metadata_of_a_part_is_uploaded_last(s3: Any, info: StoreInfo, clips: Clips) -> None:
    add(open_mirror(s3.url), info, "a", clips["clip/00"])
    sent = [line for line in s3.requests.lines if line.startswith("PUT")]
    assert sent[0].endswith(f"/cache/{info.spec.slug}-{info.spec.fingerprint[:12]}/zarr.json")
    assert sent[-1].rpartition("/part-000001-")[2].endswith("/zarr.json")
    assert sum("/part-" in line for line in sent) == len(sent) - 1 == 13


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.remote.client import Remote
from rellm_cache.store.writer import StoreWriter

upload, calls = Remote.upload, []

def die(self, files):
    calls.append(files)
    if len(calls) == 2:  # of the part, after the store: some of its files arrive
        upload(self, dict(list(files.items())[:5]))
        os.kill(os.getpid(), signal.SIGKILL)
    upload(self, files)

Remote.upload = die
info = StoreInfo(EncoderSpec(kind="prosody"), 8, "test licence")
with StoreWriter(open_mirror(sys.argv[1]), info) as writer:
    writer.add("a", np.zeros(32, np.uint8), np.ones((300, 8), np.float16))
"""


def test_files_uploaded_before_a_kill_are_not_uploaded_again(
    s3: Any, info: StoreInfo, clips: Clips
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, s3.url], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    half = {name for name in s3.names() if "/part-" in name}
    assert len(half) == 5
    root = open_mirror(s3.url)
    (waiting,) = pending_parts(root)
    (store,) = root.glob("prosody-*")
    assert len(FeatureStore(store)) == 0
    s3.requests.lines.clear()
    sync_mirror(root)
    assert not [n for n in half if any(n in line for line in s3.requests.lines if "PUT" in line)]
    assert not (root / ".outgoing").is_dir() or not pending_parts(root)
    assert [part.name for part in list_parts(store)] == [waiting.name]
    s3.forget_copies()
    again = FeatureStore(open_mirror(s3.url) / store.name)
    np.testing.assert_array_equal(again.verified_frames("a"), np.ones((300, 8), np.float16))
    add(root, info, "b", clips["clip/00"])
    assert [part.name[:11] for part in list_parts(store)] == ["part-000001", "part-000002"]


def test_parts_are_numbered_after_those_of_other_machines(
    s3: Any, info: StoreInfo, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = s3.copies, s3.copies.parent / "there"
    stale = open_mirror(s3.url)
    monkeypatch.setenv("RELLM_COPIES", str(there))
    add(open_mirror(s3.url), info, "a", clips["clip/00"])
    monkeypatch.setenv("RELLM_COPIES", str(here))
    store = add(stale, info, "a", clips["clip/01"])
    assert list_parts(store)[0].name.startswith("part-000002-")
    np.testing.assert_array_equal(
        FeatureStore(open_mirror(s3.url) / store.name).frames("a"), clips["clip/01"]
    )


def test_an_incomplete_upload_is_not_completed(
    s3: Any, info: StoreInfo, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Remote.upload

    def lose_one(self: Remote, files: dict[str, Path]) -> None:
        upload(self, {n: f for n, f in files.items() if not n.endswith("frames/c/0/0")})

    root = open_mirror(s3.url)
    with monkeypatch.context() as network:
        network.setattr(Remote, "upload", lose_one)
        with pytest.raises(RemoteError, match=r"frames/c/0/0: found None bytes after .*kept in "):
            add(root, info, "a", clips["clip/00"])
    assert not [n for n in s3.names() if n.count("/") == 2 and n.endswith("zarr.json")]
    sync_mirror(root)
    assert set(FeatureStore(next(root.glob("prosody-*"))).ids) == {"a"}


def test_no_store_is_created_without_a_network(
    s3: Any, info: StoreInfo, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_mirror(s3.url)

    def fail(self: Remote, files: object) -> None:
        with self._reaching("writing to it"):
            raise PermissionError("Access Denied")

    with monkeypatch.context() as network:
        network.setattr(Remote, "upload", fail)
        with pytest.raises(RemoteError, match="check them, and what they may do there"):
            add(root, info, "a", clips["clip/00"])
    assert sorted(os.listdir(root)) == ["remote.json"]
