"""Worker processes give the content of one process, also when some are killed."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from kills import process_id

from rellm_cache.config.schema import EncoderConfig, Recipe
from rellm_cache.corpus.manifest import read_lines
from rellm_cache.errors import StoreError, WorkersError
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.pipeline import ExtractionTask
from rellm_cache.extraction.run import extract
from rellm_cache.store.format import failures_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.workers.fork_server import worker_context
from rellm_cache.workers.processes import ProcessHandle, ProcessPool

Checksums = Callable[[Path], dict[str, int]]

# A decoder that kills its process at one clip.
CRASHING_DECODER = """
import io, os, signal, soundfile

class Crashing(soundfile.SoundFile):
    def __init__(self, file, *rest, **options):
        if isinstance(file, io.BytesIO) and b"CRASH" in file.getvalue():
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(file, *rest, **options)

soundfile.SoundFile = Crashing
"""


def test_a_killed_worker_loses_only_its_open_part(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
    kill_one: Callable[..., list[int]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    killed = kill_one(ProcessPool, process_id)
    options = ExtractionOptions(workers=2, commit_seconds=0)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=1, options=options)
    assert len(killed) == 1
    assert "died (killed by SIGKILL): " in capfd.readouterr().err
    assert (report.encoded, report.present, report.failed) == (11, 0, 0)
    assert report.hours == pytest.approx(21.2 / 3600, rel=0.01)
    assert checksums(report.path) == undisturbed
    store = FeatureStore(report.path)
    assert sum(len(part.ids) for part in store.parts) == 11  # nothing twice
    assert multiprocessing.active_children() == []


def test_a_killed_worker_loses_no_committed_part_of_a_url(
    corpus: Path,
    speech_recipe: Recipe,
    undisturbed: dict[str, int],
    checksums: Checksums,
    kill_one: Callable[..., list[int]],
    s3: Any,
) -> None:
    killed = kill_one(ProcessPool, process_id)
    options = ExtractionOptions(workers=2, commit_seconds=0)
    (report,) = extract(corpus, speech_recipe, open_mirror(s3.url), batch_size=1, options=options)
    assert len(killed) == 1
    assert (report.encoded, report.present, report.failed) == (11, 0, 0)
    s3.forget_copies()
    assert open_mirror(s3.url) == report.path.parent
    assert checksums(report.path) == undisturbed
    assert sum(len(part.ids) for part in FeatureStore(report.path).parts) == 11  # nothing twice


@pytest.mark.usefixtures("own_fork_server")
def test_workers_are_forked_from_a_server_with_one_thread_and_outlive_it(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    checksums: Checksums,
    kill_one: Callable[..., list[int]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")  # NumPy's, which starts them when it is loaded
    recipe = replace(speech_recipe, encoders={"speech": EncoderConfig(kind="prosody")})
    (alone,) = extract(corpus, recipe, tmp_path / "alone")
    seen: list[tuple[int, bool]] = []

    def server_id(handle: ProcessHandle) -> int:
        server = psutil.Process(process_id(handle)).parent()
        assert server is not None
        imported = {Path(file.path).name for file in server.memory_maps()}
        seen.append((server.num_threads(), "libtorch_cpu.so" in imported))
        return server.pid

    killed = kill_one(ProcessPool, server_id)
    options = ExtractionOptions(workers=2, commit_seconds=0)
    (report,) = extract(corpus, recipe, tmp_path / "cache", batch_size=1, options=options)
    assert seen == [(1, True)]
    assert killed != [os.getpid()]
    assert "died" not in capfd.readouterr().err
    assert (report.encoded, report.failed) == (11, 0)
    assert checksums(report.path) == checksums(alone.path)


@pytest.mark.usefixtures("own_fork_server")
def test_a_clip_that_kills_workers_is_listed_and_the_others_are_encoded(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(CRASHING_DECODER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}")
    deadly = corpus.parent / "audio/02.wav"
    deadly.write_bytes(deadly.read_bytes() + b"CRASH")
    options = ExtractionOptions(workers=1)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=4, options=options)
    assert (report.encoded, report.failed) == (10, 1)
    ((_, row),) = read_lines(failures_path(report.path))
    assert row["id"] == "tones/02"
    assert "3 workers died at it, the last: killed by SIGKILL" in row["reason"]
    expected = {key: value for key, value in undisturbed.items() if key != "tones/02"}
    assert checksums(report.path) == expected


@pytest.mark.usefixtures("own_fork_server")
def test_workers_that_cannot_start_are_an_error(
    corpus: Path, tmp_path: Path, speech_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    with pytest.raises(WorkersError, match=r"3 workers in a row died .* the last: the fork server"):
        extract(corpus, speech_recipe, tmp_path / "cache", options=ExtractionOptions(workers=1))


def test_workers_of_a_gpu_are_spawned_and_ignore_interrupts(tmp_path: Path) -> None:
    with worker_context(ExtractionTask((), tmp_path, device=torch.device("cuda", 1))) as context:
        assert context.get_start_method() == "spawn"
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_one_worker_ends_all_and_keeps_committed_parts(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, checksums: Checksums
) -> None:
    extract(corpus / "test.jsonl", speech_recipe, tmp_path / "cache")
    (tmp_path / "cache/.writing").write_text("in the way of every part")
    with pytest.raises(StoreError, match=r"could not write a part of .*run the same command again"):
        extract(corpus, speech_recipe, tmp_path / "cache", options=ExtractionOptions(workers=1))
    (store,) = (path.parent for path in (tmp_path / "cache").glob("*/zarr.json"))
    assert set(checksums(store)) == {"tones/09", "tones/10"}
    assert multiprocessing.active_children() == []
