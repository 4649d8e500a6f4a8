"""What happens to a cache in the field: kills, two runs at once, files edited, renamed, reused."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.config.schema import Recipe, to_toml
from rellm_cache.corpus.manifest import read_lines, write_lines
from rellm_cache.encoders.base import Encoding
from rellm_cache.encoders.whisper import WhisperEncoder
from rellm_cache.errors import StoreError
from rellm_cache.extraction import pipeline
from rellm_cache.extraction.failures import record_failures
from rellm_cache.extraction.messages import Failure
from rellm_cache.extraction.run import extract
from rellm_cache.extraction.workers.options import Spread
from rellm_cache.store import writer
from rellm_cache.store.format import failures_path
from rellm_cache.store.reader import FeatureStore
from rellm_cache.utils import interrupts

Checksums = Callable[[Path], dict[str, int]]
SOAK = Path(__file__).parents[1] / "benchmarks/soak.py"


def edit_manifest(file: Path, change: Callable[[dict[str, object]], None]) -> None:
    rows = [row for _, row in read_lines(file)]
    for row in rows:
        change(row)
    write_lines(file, rows)


def test_kills_at_random_moments_lose_nothing_that_was_committed(
    whisper_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, SOAK, "--kills", "8", "--clips", "12", "--model", whisper_folder]
    done = subprocess.run(
        [*map(str, command), "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["soak_kills"] == 8
    assert figures["soak_caches"] >= 1


def test_two_extractions_of_one_cache_at_once_both_finish(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
) -> None:
    (corpus.parent / "audio/05.wav").unlink()
    recipe = tmp_path / "speech.toml"
    recipe.write_text(to_toml(speech_recipe))
    command = [sys.executable, "-c", "from rellm_cache.cli import main; main()", "extract"]
    command += [str(corpus), "--recipe", str(recipe), "--cache", str(tmp_path / "cache")]
    command += ["--batch-size", "1", "--commit-seconds", "0"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [3, 3]
    assert all("1 clip failed, see " in output for output in outputs)
    (store,) = (path.parent for path in (tmp_path / "cache").glob("*/zarr.json"))
    expected = {key: value for key, value in undisturbed.items() if key != "tones/05"}
    assert checksums(store) == expected
    assert [row["id"] for _, row in read_lines(failures_path(store))] == ["tones/05"]


def test_a_renamed_clip_is_known_by_its_id_and_bytes(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path
) -> None:
    extract(corpus, speech_recipe, tmp_path / "cache")
    shutil.move(corpus.parent / "audio/03.wav", corpus.parent / "moved.wav")

    def rename(row: dict[str, object]) -> None:
        if row["id"] == "tones/03":
            row["audio"] = "../moved.wav"

    edit_manifest(corpus / "train.jsonl", rename)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.present, report.changed) == (0, 11, 0)


def test_an_id_given_to_another_clip_is_said_and_the_newest_wins(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rellm_cache.cli.extract import show

    extract(corpus, speech_recipe, tmp_path / "cache")

    def reuse(row: dict[str, object]) -> None:
        if row["id"] == "tones/03":
            row["audio"] = "../audio/04.wav"

    edit_manifest(corpus / "train.jsonl", reuse)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache")
    assert (report.encoded, report.present, report.changed) == (1, 10, 1)
    show(report)
    assert "1 id had other audio before: the new frames win" in capsys.readouterr().out
    assert checksums(report.path) == {**undisturbed, "tones/03": undisturbed["tones/04"]}


def test_a_clock_set_back_changes_neither_order_nor_commits(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    undisturbed: dict[str, int],
    checksums: Checksums,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (report,) = extract(corpus / "train.jsonl", speech_recipe, tmp_path / "cache")
    shutil.copy(corpus.parent / "audio/00.wav", corpus.parent / "audio/03.wav")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    spread = Spread(commit_seconds=0)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=1, spread=spread)
    assert (report.encoded, report.changed) == (5, 1)
    store = FeatureStore(report.path)
    assert [len(part.ids) for part in store.parts] == [7, 1, 1, 1, 1, 1]
    numbers = [part.path.name.split("-")[1] for part in store.parts]
    assert numbers == [f"{number:06d}" for number in range(1, 7)]
    assert checksums(report.path) == {**undisturbed, "tones/03": undisturbed["tones/00"]}


def test_a_slow_disk_does_not_hold_up_the_encoder_and_its_error_surfaces(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first commit hangs until later batches have been encoded, and then fails."""
    sync = writer.sync_tree
    encoded_meanwhile = threading.Event()
    encode = count_encodes(monkeypatch, after=4, then=encoded_meanwhile.set)
    calls: list[Path] = []

    def slow(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 2:  # the store itself, then its first part
            assert encoded_meanwhile.wait(60), "the encoder waited for the disk"
            raise OSError(5, "Input/output error")
        sync(folder)

    monkeypatch.setattr(writer, "sync_tree", slow)
    spread = Spread(commit_seconds=0)
    with pytest.raises(StoreError, match=r"could not write a part of 1 clip .*Input/output error"):
        extract(corpus, speech_recipe, tmp_path / "cache", batch_size=1, spread=spread)
    assert len(calls) == 2  # nothing was written after the error
    assert 4 <= len(encode) <= 11


def test_a_disk_that_hangs_takes_no_more_memory_than_it_may(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch hangs in its commit, the next is encoded and waits; there is no third."""
    sync = writer.sync_tree
    third = threading.Event()
    count_encodes(monkeypatch, after=3, then=third.set)
    calls: list[Path] = []

    def hang(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 2:  # the store itself, then its first part
            assert not third.wait(0.5), "the encoder went on"
        sync(folder)

    monkeypatch.setattr(writer, "sync_tree", hang)
    monkeypatch.setattr(pipeline, "BACKLOG_BYTES", 1)
    spread = Spread(commit_seconds=0)
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=1, spread=spread)
    assert report.encoded == 11


@pytest.mark.parametrize(
    ("batch_size", "clips", "before"),
    [
        pytest.param(1, 3, True, id="a second while it closes"),
        pytest.param(4, 4, False, id="the first while it closes"),
    ],
)
def test_an_interrupt_while_an_extraction_closes_loses_nothing(
    corpus: Path,
    speech_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    clips: int,
    before: bool,
) -> None:
    """The last clip that is to be kept is in the encoder, and the main thread waits for it."""
    main = threading.get_ident()
    said: list[str] = []
    monkeypatch.setattr(interrupts, "say", said.append)

    def is_closing() -> bool:
        stack = traceback.walk_stack(sys._current_frames()[main])
        return any(frame.f_code is ThreadPoolExecutor.shutdown.__code__ for frame, _ in stack)

    def wait_for(happened: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < until
            # A signal that comes just before a thread begins to wait is seen at the next one.
            signal.pthread_kill(main, signal.SIGUSR1)
            time.sleep(0.005)

    def interrupt() -> None:
        if before:
            signal.pthread_kill(main, signal.SIGINT)
        wait_for(is_closing)
        signal.pthread_kill(main, signal.SIGINT)
        wait_for(lambda: interrupts.NOTICE in said)

    count_encodes(monkeypatch, after=3 if before else 1, then=interrupt)
    woken = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            extract(corpus, speech_recipe, tmp_path / "cache", batch_size=batch_size)
    finally:
        signal.signal(signal.SIGUSR1, woken)
    assert not (tmp_path / "cache/.writing").exists()
    (report,) = extract(corpus, speech_recipe, tmp_path / "cache", batch_size=batch_size)
    assert (report.encoded, report.present) == (11 - clips, clips)


def count_encodes(
    monkeypatch: pytest.MonkeyPatch, after: int, then: Callable[[], None]
) -> list[int]:
    """Counts forward passes of Whisper; calls `then` after some of them."""
    encode, sizes = WhisperEncoder.encode, []

    def counted(self: WhisperEncoder, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        sizes.append(len(waveforms))
        if len(sizes) == after:
            then()
        return encode(self, waveforms)

    monkeypatch.setattr(WhisperEncoder, "encode", counted)
    return sizes


def test_failure_lists_of_several_jobs_do_not_lose_each_other(tmp_path: Path) -> None:
    store = tmp_path / "store"

    def fail(number: int) -> None:
        for again in range(20):
            failure = Failure(f"clip/{number}", "a.wav", f"try {again}")
            record_failures(store, {failure.id}, [failure])

    jobs = [threading.Thread(target=fail, args=(number,)) for number in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    rows = {row["id"]: row["reason"] for _, row in read_lines(failures_path(store))}
    assert rows == {f"clip/{number}": "try 19" for number in range(4)}
    for number in range(4):
        record_failures(store, {f"clip/{number}"}, [])
    assert not failures_path(store).exists()
