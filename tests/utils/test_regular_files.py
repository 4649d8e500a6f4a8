"""Regular files: everything else is named and never read."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rellm_cache.config.toml import read_toml
from rellm_cache.corpus.manifest import read_manifest
from rellm_cache.corpus.text_files import Problems, read_csv, read_text
from rellm_cache.errors import RellmError, RunError
from rellm_cache.importers.checkpoint_source import open_tensors
from rellm_cache.importers.qwen_tokenizer import read_ranks
from rellm_cache.runs.provenance import load_training
from rellm_cache.runs.weights import read_tensors
from rellm_cache.store.format import read_info
from rellm_cache.store.maintenance.hdf5 import import_store
from rellm_cache.store.remote.mirror_paths import origin_url
from rellm_cache.store.transcripts import read_header, read_transcripts_file
from rellm_cache.sweeps.run import read_outcome
from rellm_cache.utils.checksums import find_damage, read_sums
from rellm_cache.utils.console import silent
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.regular_files import (
    NotRegularError,
    file_digest,
    file_exists,
    folder_exists,
    open_regular,
    read_regular,
    require_regular,
    what_is_there,
)
from rellm_cache.utils.resumable_table import read_rows


def make_socket(path: Path) -> None:
    os.chdir(path.parent)  # a name of a socket is short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)


THINGS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe": (os.mkfifo, "found a pipe, expected a regular file"),
    "folder": (Path.mkdir, "found a folder, expected a regular file"),
    "loop of links": (lambda path: path.symlink_to(path.name), "found a loop of links, expected"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "found a device, expected a regular"),
    "link to a folder": (lambda path: path.symlink_to("/"), "found a folder, expected a regular"),
    "broken link": (lambda path: path.symlink_to("gone"), "found a link to 'gone', which does not"),
}


@pytest.mark.parametrize(("make", "found"), THINGS.values(), ids=THINGS)
def test_other_things_are_named(tmp_path: Path, make: Callable[[Path], Any], found: str) -> None:
    path = tmp_path / "a.json"
    make(path)
    assert found in what_is_there(path)
    with pytest.raises(OSError):  # noqa: PT011
        open_regular(path)
    with pytest.raises(RunError, match=rf"a\.json: {found}.*; copy it"):
        require_regular(path, RunError, "copy it")
    with pytest.raises(RunError, match=rf"a\.json: {found}.*; copy it"):
        read_object(path, RunError, "copy it")


def test_a_socket_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_socket(tmp_path / "s")
    assert what_is_there(tmp_path / "s") == "found a socket or device, expected a regular file"


def test_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        assert read_regular(tmp_path / name) == b"abc"
        assert what_is_there(tmp_path / name) == ""
    assert file_digest(tmp_path / "a").startswith("ba7816bf")
    assert what_is_there(tmp_path / "nothing") == ""
    with pytest.raises(NotRegularError, match="found 3 bytes, expected 2 at most"):
        read_regular(tmp_path / "a", largest=2)


# Each is given a folder and the name of what is there in place of a file.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "recipe": ("a.toml", lambda f: read_toml(f / "a.toml")),
    "manifest": ("a.jsonl", lambda f: read_manifest(f / "a.jsonl")),
    "table": ("a.csv", lambda f: read_csv(f / "a.csv")),
    "text": ("a.txt", lambda f: read_text(f / "a.txt", Problems())),
    "JSON": ("a.json", lambda f: read_object(f / "a.json", RunError, "copy it")),
    "rows": ("a.jsonl", lambda f: list(read_rows(f / "a.jsonl"))),
    "checksums": ("results.sha256", lambda f: read_sums(f / "results.sha256")),
    "training": ("training.json", load_training),
    "outcome": ("outcome.json", read_outcome),
    "weights": ("adapter.safetensors", lambda f: read_tensors(f / "adapter.safetensors")),
    "PyTorch": ("pytorch_model.bin", lambda f: open_tensors(f / "pytorch_model.bin")),
    "ranks": ("qwen.tiktoken", lambda f: read_ranks(f / "qwen.tiktoken")),
    "HDF5": ("a.h5", lambda f: import_store(f / "a.h5", f / "cache", silent)),
    "store": ("zarr.json", read_info),
    "mirror": ("remote.json", origin_url),
    "header": ("a.jsonl", lambda f: read_header(f / "a.jsonl")),
    "transcripts": ("a.jsonl", lambda f: read_transcripts_file(f / "a.jsonl")),
}


@pytest.mark.parametrize("thing", ["pipe", "device", "folder", "loop of links"])
@pytest.mark.parametrize(("name", "read"), READERS.values(), ids=READERS)
def test_no_reader_waits_for_another_thing(
    tmp_path: Path, name: str, read: Callable[[Path], Any], thing: str
) -> None:
    THINGS[thing][0](tmp_path / name)
    if thing == "loop of links" and name in ("outcome.json", "a.jsonl"):
        # `exists()` is false for a loop, and these may be missing.
        return
    with pytest.raises(RellmError, match=str(tmp_path)):
        read(tmp_path)


def test_a_pipe_is_damage_of_a_result(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scores.json")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  scores.json\n")
    assert find_damage(tmp_path) == {
        "scores.json": "found a pipe, expected a regular file, and is not what SHA256SUMS says"
    }


@pytest.mark.parametrize("name", ["gone", "x" * 300, "x/" * 2500, "a\0b"])
def test_a_name_that_no_file_can_have_does_not_exist(tmp_path: Path, name: str) -> None:
    assert not file_exists(tmp_path / name)
    assert not folder_exists(tmp_path / name)


def test_files_and_folders_exist_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert file_exists(tmp_path / "file")
    assert not folder_exists(tmp_path / "file")
    assert folder_exists(tmp_path)
    assert not file_exists(tmp_path)
