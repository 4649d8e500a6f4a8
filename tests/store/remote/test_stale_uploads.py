"""Stale uploads: removed by age, never during an upload."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.store.format import StoreInfo
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.mirror import open_mirror, sync_mirror
from rellm_cache.store.remote.stale_uploads import remove_stale_uploads
from rellm_cache.store.remote.upload import pending_parts
from rellm_cache.store.writer import StoreWriter

Clips = dict[str, np.ndarray]


def add(root: Path, info: StoreInfo, name: str, frames: np.ndarray) -> Path:
    with StoreWriter(root, info) as writer:
        writer.add(name, np.zeros(32, np.uint8), frames)
    return writer.path


def send_without_its_metadata(
    root: Path, info: StoreInfo, name: str, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Upload a part except its own zarr.json; it stays pending in the mirror."""
    upload = Remote.upload

    def fail_at_the_end(self: Remote, files: dict[str, Path]) -> None:
        if len(files) == 1 and next(iter(files)).count("/") == 2:
            raise RemoteError("the network is gone")
        upload(self, files)

    with monkeypatch.context() as network:
        network.setattr(Remote, "upload", fail_at_the_end)
        with pytest.raises(RemoteError, match="the network is gone"):
            add(root, info, name, frames)
    (waiting,) = pending_parts(root)
    return waiting


def test_a_stale_upload_is_removed_by_age(
    s3: Any, info: StoreInfo, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_mirror(s3.url)
    store = add(root, info, "a", clips["clip/00"])
    whole = s3.names()
    waiting = send_without_its_metadata(root, info, "b", clips["clip/01"], monkeypatch)
    left = s3.names() - whole
    assert remove_stale_uploads(root, 0) == []  # it waits here to be sent
    s3.forget_copies()
    root = open_mirror(s3.url)
    (young,) = remove_stale_uploads(root, 1)
    assert young.place == f"{s3.url}/{store.name}/{waiting.name}"
    assert (young.files, young.removed) == (len(left), False)
    assert s3.names() == whole | left
    (old,) = remove_stale_uploads(root, 0)
    assert (old.place, old.files, old.removed) == (young.place, len(left), True)
    assert s3.names() == whole
    assert remove_stale_uploads(root, 0) == []
    assert set(FeatureStore(store).ids) == {"a"}


def test_an_active_upload_is_kept(
    s3: Any, info: StoreInfo, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine completes it between the first and the last listing."""
    root = open_mirror(s3.url)
    waiting = send_without_its_metadata(root, info, "a", clips["clip/00"], monkeypatch)
    prefix = f"{waiting.parent.name}/{waiting.name}"
    document = (waiting / "zarr.json").read_bytes()
    s3.forget_copies()
    modified = Remote.modified

    def finish(self: Remote, name: str) -> Any:
        s3.files.pipe_file(s3.path(f"{prefix}/zarr.json"), document)
        return modified(self, name)

    monkeypatch.setattr(Remote, "modified", finish)
    (found,) = remove_stale_uploads(open_mirror(s3.url), 0)
    assert not found.removed
    (store,) = open_mirror(s3.url).glob("prosody-*")
    np.testing.assert_array_equal(FeatureStore(store).verified_frames("a"), clips["clip/00"])


def test_a_paused_upload_is_repeated_after_its_removal(
    s3: Any,
    info: StoreInfo,
    clips: Clips,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    root = open_mirror(s3.url)
    waiting = send_without_its_metadata(root, info, "a", clips["clip/00"], monkeypatch)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("RELLM_COPIES", str(tmp_path / "elsewhere"))
        (found,) = remove_stale_uploads(open_mirror(s3.url), 0)
        assert found.removed
    sync_mirror(root)
    s3.forget_copies()
    store = FeatureStore(open_mirror(s3.url) / waiting.parent.name)
    np.testing.assert_array_equal(store.verified_frames("a"), clips["clip/00"])


def test_a_continued_upload_writes_a_file_before_the_metadata(
    s3: Any, info: StoreInfo, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = open_mirror(s3.url)
    send_without_its_metadata(root, info, "a", clips["clip/00"], monkeypatch)
    s3.requests.lines.clear()
    sync_mirror(root)
    sent = [line for line in s3.requests.lines if line.startswith("PUT")]
    assert len(sent) == 2
    assert sent[0].count("/") > sent[1].count("/")


def test_an_upload_of_unknown_age_is_kept(
    info: StoreInfo, clips: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELLM_COPIES", str(tmp_path / "copies"))
    url = f"file://{tmp_path}/cache"
    root = open_mirror(url)
    store = add(root, info, "a", clips["clip/00"])
    left = tmp_path / "cache" / store.name / "part-000002-0123abcd/offsets/zarr.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")

    def cannot_tell(self: Any, path: str) -> None:
        raise NotImplementedError

    with monkeypatch.context() as protocol:
        protocol.setattr("fsspec.implementations.local.LocalFileSystem.modified", cannot_tell)
        (found,) = remove_stale_uploads(root, 0)
    assert (found.hours, found.removed, left.exists()) == (None, False, True)
    (found,) = remove_stale_uploads(root, 0)
    assert (found.removed, left.exists()) == (True, False)
    assert remove_stale_uploads(tmp_path / "cache", 0) == []  # a plain folder has none
