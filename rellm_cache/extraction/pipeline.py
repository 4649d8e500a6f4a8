"""Extraction pipeline of one worker: decode threads → encoder thread → writer thread.

Clips are decoded before the encoder needs them. Frames are rounded to float16 in the writer thread;
checksums, Zarr and fsync run in a thread of each store's `StoreWriter`. Every queue is bounded; the
one in front of the disk is bounded in bytes (`byte_semaphore`).

The first error in any thread stops the pipeline: no further batch is encoded, batches already
encoded are committed if possible, and the next `submit` or the end of the `with` block raises it.
"""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import Clip, load_clip
from rellm_cache.corpus.clip_limits import DEFAULT_LIMITS, ClipLimits
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.encoders.base import Encoding
from rellm_cache.encoders.registry import build_encoder, encoder_module, encoding_machine
from rellm_cache.errors import AudioError, FrameError
from rellm_cache.extraction.byte_semaphore import MAX_UNWRITTEN_BYTES, ByteSemaphore
from rellm_cache.extraction.messages import ClipBatch, ClipsEncoded, Failure, MissingClip
from rellm_cache.extraction.oom_split import OomSplitter
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.writer import PART_SECONDS, StoreWriter
from rellm_cache.utils.devices import default_device
from rellm_cache.workers.messages import (
    STOP,
    Aborted,
    Emit,
    Finished,
    Note,
    Ready,
    Receive,
    WorkerTask,
)

DECODE_THREADS = 4
MAX_BATCHES_IN_FLIGHT = 3  # one in the encoder, two decoded or being decoded

Encoded = list[tuple[Utterance, np.ndarray, Encoding]]  # clip, audio digest, frames


@dataclass(frozen=True)
class ExtractionTask(WorkerTask):
    """The task of a worker that encodes clips."""

    specs: tuple[EncoderSpec, ...]  # encoders with missing clips, weights resolved
    cache: Path  # folder of the stores
    commit_seconds: float = PART_SECONDS  # an open part is committed at this age
    # Object store that `cache` mirrors; empty for a plain folder. A worker opens its own mirror,
    # which on the same machine is the same folder.
    url: str = ""
    limits: ClipLimits = DEFAULT_LIMITS  # which clips are usable

    @property
    def modules(self) -> list[str]:
        """This module, and those of the encoders."""
        return [__name__, *sorted({encoder_module(spec) for spec in self.specs})]

    def run(self, receive: Receive, emit: Emit) -> None:
        """Load the models, encode batches as they arrive, and commit."""
        try:
            if self.threads:
                torch.set_num_threads(self.threads)
            own = replace(self, cache=open_mirror(self.url)) if self.url else self
            with Pipeline(own, emit) as pipeline:
                emit(Ready(os.getpid()))
                while not isinstance(command := receive(), str):
                    pipeline.submit(command)
                if command == STOP:
                    pipeline.stop()
        except BaseException as error:
            emit(Aborted.from_error(error))
        emit(Finished())


class _StreamPipeline:
    """One encoder and the writer of its store."""

    def __init__(self, spec: EncoderSpec, task: ExtractionTask, emit: Emit) -> None:
        device = task.device or default_device()
        encoder = build_encoder(spec, device)
        self.fingerprint = spec.fingerprint
        self._splitter = OomSplitter(
            encoder.encode, spec.slug, device, lambda text: emit(Note(text))
        )
        self.writer = StoreWriter(
            task.cache,
            StoreInfo(spec, encoder.frame_size, encoder.licence),
            writers=[encoding_machine(spec, device)],
            part_seconds=task.commit_seconds,
        )

    def encode(
        self, clips: Sequence[tuple[MissingClip, Clip]]
    ) -> tuple[Encoded, list[Failure], float]:
        """Encode the clips that this store lacks.

        Returns:
            Encodings, failures, and seconds of forward passes.
        """
        mine = [(m.utterance, clip) for m, clip in clips if self.fingerprint in m.missing_from]
        encoded: Encoded = []
        failures: list[Failure] = []
        before = self._splitter.seconds
        results = self._splitter.run([clip for _, clip in mine])
        for (utterance, clip), result in zip(mine, results, strict=True):
            if isinstance(result, AudioError):
                failures.append(Failure(utterance.id, utterance.audio, str(result)))
            else:
                encoded.append((utterance, clip.digest, result))
        return encoded, failures, self._splitter.seconds - before

    def write(self, encoded: Encoded) -> list[Failure]:
        """Add encodings to the open part. Frames that cannot be stored are failures."""
        failures = []
        for utterance, digest, encoding in encoded:
            try:
                self.writer.add(utterance.id, digest, encoding.frames, encoding.vad)
            except FrameError as error:
                failures.append(Failure(utterance.id, utterance.audio, str(error)))
        return failures


class Pipeline:
    """Encodes batches and commits their frames. Creation loads the models; use it with `with`.

    Args:
        emit: called from several threads with `ClipsEncoded` for each batch, a `Note` for the user,
            and `Aborted` at the first error.
        max_unwritten_bytes: maximum size of frames that wait for the disk.

    Raises:
        ConfigError: a model cannot be loaded.
        StoreError: on entering or later: a store cannot be written.
    """

    def __init__(
        self, task: ExtractionTask, emit: Emit, max_unwritten_bytes: int = MAX_UNWRITTEN_BYTES
    ) -> None:
        self._emit = emit
        self._limits = task.limits
        self._streams = [_StreamPipeline(spec, task, emit) for spec in task.specs]
        self._writers = ExitStack()
        self._decoding = ThreadPoolExecutor(DECODE_THREADS, "decode")
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._writing = ThreadPoolExecutor(1, "write")
        self._in_flight = threading.Semaphore(MAX_BATCHES_IN_FLIGHT)
        self._unwritten = ByteSemaphore(max_unwritten_bytes)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._stopped = False
        self._write_failed = False

    def __enter__(self) -> Self:
        for stream in self._streams:
            self._writers.enter_context(stream.writer)
        return self

    def submit(self, batch: ClipBatch) -> None:
        """Queue a batch. Blocks while the queue is full; raises the first error of any thread."""
        self._in_flight.acquire()
        if self._error is not None:
            raise self._error
        clips = [
            self._decoding.submit(try_load, clip.utterance, self._limits) for clip in batch.items
        ]
        self._encoding.submit(self._encode, batch, clips)

    def stop(self) -> None:
        """Drop batches that have not started. The end of the `with` block commits the others."""
        self._stopped = True

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = self._stopped or error is not None
        self._encoding.shutdown(wait=True)
        self._decoding.shutdown(wait=True, cancel_futures=True)
        self._writing.shutdown(wait=True)
        cause = error or self._error
        self._writers.__exit__(type(cause) if cause else None, cause, trace)
        if error is None and self._error is not None:
            raise self._error

    def _encode(self, batch: ClipBatch, clips: list["Future[Clip | AudioError]"]) -> None:
        try:
            if self._stopped:
                return
            loaded, done = _wait_for_decoding(batch, clips)
            encoded = {}
            for stream in self._streams:
                key = stream.fingerprint
                encoded[key], failures, done.encoder_seconds[key] = stream.encode(loaded)
                done.failures.setdefault(key, []).extend(failures)
            size = sum(e.frames.nbytes for rows in encoded.values() for _, _, e in rows)
            self._unwritten.acquire(size)
            self._writing.submit(self._write, batch, encoded, done, size)
        except BaseException as error:
            self._fail(error)
        finally:
            self._in_flight.release()

    def _write(
        self, batch: ClipBatch, encoded: dict[str, Encoded], done: ClipsEncoded, size: int
    ) -> None:
        try:
            if self._write_failed:
                return
            for stream in self._streams:
                done.failures[stream.fingerprint] += stream.write(encoded[stream.fingerprint])
                if batch.isolated:
                    stream.writer.commit()
            self._emit(done)
        except BaseException as error:
            self._write_failed = True
            self._fail(error)
        finally:
            self._unwritten.release(size)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first = self._error is None
            self._error = self._error or error
            self._stopped = True
        if first:
            self._emit(Aborted.from_error(error))


def try_load(utterance: Utterance, limits: ClipLimits) -> Clip | AudioError:
    """The decoded clip, or the error if it cannot be used."""
    try:
        return load_clip(utterance, limits)
    except AudioError as error:
        return error


def _wait_for_decoding(
    batch: ClipBatch, clips: list["Future[Clip | AudioError]"]
) -> tuple[list[tuple[MissingClip, Clip]], ClipsEncoded]:
    """The decoded clips, and a report with the failures of the others."""
    done = ClipsEncoded(batch.number, {}, {}, {})
    loaded = []
    for missing, future in zip(batch.items, clips, strict=True):
        clip, utterance = future.result(), missing.utterance
        if isinstance(clip, Clip):
            loaded.append((missing, clip))
            done.seconds[utterance.id] = clip.seconds
            continue
        for key in missing.missing_from:
            failure = Failure(utterance.id, utterance.audio, str(clip))
            done.failures.setdefault(key, []).append(failure)
    return loaded, done
