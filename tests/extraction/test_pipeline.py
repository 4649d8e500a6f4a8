"""The pipeline with a slow or failing disk, and with interrupts while it closes."""

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.encoders.base import Encoding
from rellm_cache.encoders.whisper import WhisperEncoder
from rellm_cache.errors import StoreError
from rellm_cache.extraction.messages import ClipsEncoded, batch_by_length
from rellm_cache.extraction.missing import find_missing
from rellm_cache.extraction.options import ExtractionOptions
from rellm_cache.extraction.pipeline import ExtractionTask, Pipeline
from rellm_cache.extraction.run import extract, make_targets
from rellm_cache.store import writer
from rellm_cache.utils import interrupts
from rellm_cache.workers.messages import Event


def test_the_encoder_does_not_wait_for_a_slow_disk_and_its_error_is_raised(
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
    options = ExtractionOptions(commit_seconds=0)
    with pytest.raises(StoreError, match=r"could not write a part of 1 clip .*Input/output error"):
        extract(corpus, speech_recipe, tmp_path / "cache", batch_size=1, options=options)
    assert len(calls) == 2  # nothing was written after the error
    assert 4 <= len(encode) <= 11


def test_frames_that_wait_for_a_slow_disk_are_bounded(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of one batch hangs, the next one is encoded and waits; there is no third."""
    sync = writer.sync_tree
    third = threading.Event()
    count_encodes(monkeypatch, after=3, then=third.set)
    calls: list[Path] = []

    def hang(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 2:  # the store itself, then its first part
            assert not third.wait(0.5), "the encoder did not wait"
        sync(folder)

    monkeypatch.setattr(writer, "sync_tree", hang)
    (target,) = make_targets(speech_recipe.encoders, tmp_path / "cache").values()
    missing = find_missing(read_manifests(corpus), [target])
    task = ExtractionTask((target.spec,), tmp_path / "cache", commit_seconds=0)
    events: list[Event] = []
    with Pipeline(task, events.append, max_unwritten_bytes=1) as pipeline:
        for batch in batch_by_length(missing, 1):
            pipeline.submit(batch)
    assert [event.failures for event in events if isinstance(event, ClipsEncoded)] == [
        {target.fingerprint: []}
    ] * 11


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
    """The encoder has the last clip that will be kept, and the main thread waits for it."""
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
