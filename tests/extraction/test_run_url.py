"""Extraction to an object store gives what a folder gives, also when uploads are interrupted."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Example
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.streams import StreamSet
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import failures_path, list_parts
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.client import Remote, RemoteError
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.remote.upload import pending_parts

Checksums = Callable[[Path], dict[str, int]]
IDS = [f"tones/{index:02d}" for index in range(11)]


@pytest.fixture
def expected(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, checksums: Checksums
) -> dict[str, int]:
    """Checksums of the corpus in a folder."""
    (report,) = extract(corpus, speech_recipe, tmp_path / "folder", batch_size=1)
    return checksums(report.path)


@pytest.fixture
def recipe_file(speech_recipe: Recipe, tmp_path: Path) -> Path:
    """The same recipe for another process."""
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(speech_recipe), "utf-8")
    return path


@pytest.fixture
def stored(s3: Any, checksums: Checksums) -> Callable[[], dict[str, int]]:
    """Checksums of the corpus at the URL, read without a mirror."""

    def read() -> dict[str, int]:
        s3.forget_copies()
        (store,) = open_mirror(s3.url).glob("*whisper*")
        return checksums(store)

    return read


def test_a_url_holds_what_a_folder_holds(
    corpus: Path,
    speech_recipe: Recipe,
    expected: dict[str, int],
    s3: Any,
    checksums: Checksums,
) -> None:
    (corpus.parent / "audio/05.wav").write_bytes(b"no sound")
    del expected["tones/05"]
    options = ExtractionOptions(commit_seconds=0)  # every clip is a part
    (report,) = extract(corpus, speech_recipe, open_mirror(s3.url), batch_size=1, options=options)
    assert (report.encoded, report.failed) == (10, 1)
    assert f"{failures_path(report.path).name}" in s3.names()
    assert checksums(report.path) == expected
    assert len(list_parts(report.path)) > 2
    assert not pending_parts(report.path.parent)
    before = s3.names()
    s3.forget_copies()
    (again,) = extract(corpus, speech_recipe, open_mirror(s3.url), batch_size=1)
    assert (again.encoded, again.present, again.failed) == (0, 10, 1)
    assert s3.requests.of_frames() == []
    assert s3.names() == before
    assert checksums(again.path) == expected


def test_batches_from_a_url_equal_those_of_a_folder(
    corpus: Path, speech_recipe: Recipe, s3: Any, tmp_path: Path
) -> None:
    (local,) = extract(corpus, speech_recipe, tmp_path / "folder")
    (remote,) = extract(corpus, speech_recipe, open_mirror(s3.url))
    s3.forget_copies()
    open_mirror(s3.url)
    examples = [Example(i, 0, None, ()) for i in IDS]
    plan = [[0, 5, 2], [7, 1], [10, 3, 9]]
    loaders = [
        BatchLoader(examples, StreamSet({"speech": FeatureStore(report.path)}))
        for report in (local, remote)
    ]
    for one, other in zip(*(loader.batches(plan) for loader in loaders), strict=True):
        np.testing.assert_array_equal(one.streams["speech"], other.streams["speech"])
        np.testing.assert_array_equal(one.frame_lengths, other.frame_lengths)
    assert len(s3.requests.of_frames()) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from rellm_cache.config.recipes import load_recipe
from rellm_cache.extraction.run import extract
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.remote.client import Remote

upload, calls = Remote.upload, []

def die(self, files):
    calls.append(files)
    if len(calls) == 3:  # the store, the part, and now the file that makes it exist
        os.kill(os.getpid(), signal.SIGKILL)
    upload(self, files)

Remote.upload = die
manifest, recipe, url = sys.argv[1:]
extract(Path(manifest), load_recipe(recipe), open_mirror(url))
"""


def test_a_part_with_a_killed_upload_is_uploaded_and_not_encoded_again(
    corpus: Path,
    speech_recipe: Recipe,
    recipe_file: Path,
    expected: dict[str, int],
    s3: Any,
    stored: Callable[[], dict[str, int]],
) -> None:
    arguments = [sys.executable, "-c", KILLED, corpus, recipe_file, s3.url]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert any("/frames/c/0/0" in name for name in s3.names())
    reader = open_mirror(s3.url)
    (waiting,) = pending_parts(reader)
    (store,) = reader.glob("*whisper*")
    assert len(FeatureStore(store)) == 0
    (report,) = extract(corpus, speech_recipe, reader)
    assert (report.encoded, report.present) == (0, 11)
    assert not pending_parts(reader)
    assert [part.name for part in list_parts(report.path)] == [waiting.name]
    assert stored() == expected


@contextmanager
def unreachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Uploads fail, as after a network cable is unplugged."""

    def fail(self: Remote, files: object) -> None:
        with self._reaching("writing to it"):
            raise ConnectionError("the network is gone")

    with monkeypatch.context() as network:
        network.setattr(Remote, "upload", fail)
        yield


def test_without_a_network_nothing_encoded_is_lost(
    corpus: Path, recipe: Recipe, s3: Any, monkeypatch: pytest.MonkeyPatch, checksums: Checksums
) -> None:
    extract(corpus / "test.jsonl", recipe, open_mirror(s3.url))
    root = open_mirror(s3.url)
    with (
        unreachable(monkeypatch),
        pytest.raises(
            RemoteError, match=rf"{s3.url}: writing .*network is gone.*kept in \S+ `rellm"
        ),
    ):
        extract(corpus, recipe, root, batch_size=16)
    assert len(pending_parts(root)) == 2  # a part of either stream
    for report in extract(corpus, recipe, root):
        assert (report.encoded, report.present) == (0, 11)
        assert set(checksums(report.path)) == set(IDS)


def test_two_extractions_at_once_fill_one_url(
    corpus: Path,
    speech_recipe: Recipe,
    recipe_file: Path,
    expected: dict[str, int],
    s3: Any,
    stored: Callable[[], dict[str, int]],
) -> None:
    command = [sys.executable, "-c", "from rellm_cache.cli import main; main()", "extract"]
    command += [str(corpus), "--recipe", str(recipe_file), "--cache", s3.url]
    other = subprocess.Popen(
        [*command, "--batch-size", "2"], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    extract(corpus, speech_recipe, open_mirror(s3.url), batch_size=2)
    out, _ = other.communicate()
    assert other.returncode == 0
    assert f"{s3.url}/tiny-whisper-" in out
    assert stored() == expected
