"""One worker's pipeline: decode threads → encoder thread → writer thread.

In: batches, submitted one after another. Out: committed parts, and an event for each batch.

The encoder never waits for a disk: clips are decoded before it asks for them. Rounding happens in
the writer thread; checksums, Zarr and fsync in a thread of each store's `StoreWriter`. Each queue
is bounded, what waits for a disk in bytes (`backlog`). The first error of any thread ends the work:
nothing more is encoded, what was encoded is committed if it can be, and the error is raised by the
next `submit` or when the pipeline is left.
"""

import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.corpus.audio import Clip, load_clip
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.encoders.base import Encoding
from rellm_cache.encoders.registry import build_encoder, encoding_machine
from rellm_cache.errors import AudioError, FrameError
from rellm_cache.extraction.byte_semaphore import BACKLOG_BYTES, Backlog
from rellm_cache.extraction.messages import (
    Batch,
    BatchDone,
    Broken,
    Emit,
    Failure,
    Finished,
    Job,
    Note,
    Ready,
    Work,
)
from rellm_cache.extraction.oom_split import CarefulEncoder
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.remote.mirror import open_mirror
from rellm_cache.store.writer import StoreWriter
from rellm_cache.utils.devices import default_device

DECODE_THREADS = 4
BATCHES_IN_HAND = 3  # one in the encoder, two decoded or being decoded

Encoded = list[tuple[Utterance, np.ndarray, Encoding]]  # clip, its digest, its frames


class _Outlet:
    """One encoder and the writer of its store."""

    def __init__(self, spec: EncoderSpec, job: Job, emit: Emit) -> None:
        device = job.device or default_device()
        encoder = build_encoder(spec, device)
        self.fingerprint = spec.fingerprint
        self.encoder = CarefulEncoder(encoder, device, lambda text: emit(Note(text)))
        info = StoreInfo(spec, encoder.frame_size, encoder.licence)
        self.writer = StoreWriter(
            job.cache,
            info,
            writers=[encoding_machine(spec, device)],
            part_seconds=job.commit_seconds,
        )

    def encode(self, clips: Sequence[tuple[Work, Clip]]) -> tuple[Encoded, list[Failure], float]:
        """Encodings and failures of those clips that this store lacks, and the forward seconds."""
        mine = [(w.utterance, clip) for w, clip in clips if self.fingerprint in w.lacking]
        encoded: Encoded = []
        failures: list[Failure] = []
        before = self.encoder.seconds
        results = self.encoder.encode([clip for _, clip in mine])
        for (utterance, clip), result in zip(mine, results, strict=True):
            if isinstance(result, AudioError):
                failures.append(Failure(utterance.id, utterance.audio, str(result)))
            else:
                encoded.append((utterance, clip.digest, result))
        return encoded, failures, self.encoder.seconds - before

    def write(self, encoded: Encoded) -> list[Failure]:
        """Add encodings to the open part; frames that cannot be stored are failures."""
        failures = []
        for utterance, digest, encoding in encoded:
            try:
                self.writer.add(utterance.id, digest, encoding.frames, encoding.vad)
            except FrameError as error:
                failures.append(Failure(utterance.id, utterance.audio, str(error)))
        return failures


class Pipeline:
    """Encodes batches and commits their frames. Making it loads the models; use it with `with`.

    Args:
        emit: is given a `BatchDone` for each batch, a `Note` for the user, and `Broken` at the
            first error; from whichever thread it happens in.

    Raises:
        ConfigError: a model cannot be loaded.
        StoreError: on entering or later: a store cannot be written.
    """

    def __init__(self, job: Job, emit: Emit) -> None:
        self._emit = emit
        self._outlets = [_Outlet(spec, job, emit) for spec in job.specs]
        self._writers = ExitStack()
        self._decoding = ThreadPoolExecutor(DECODE_THREADS, "decode")
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._writing = ThreadPoolExecutor(1, "write")
        self._in_hand = threading.Semaphore(BATCHES_IN_HAND)
        self._to_write = Backlog(BACKLOG_BYTES)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._stopped = False
        self._write_failed = False

    def __enter__(self) -> Self:
        for outlet in self._outlets:
            self._writers.enter_context(outlet.writer)
        return self

    def submit(self, batch: Batch) -> None:
        """Take a batch; waits while enough are in hand. Raises the first error of any thread."""
        self._in_hand.acquire()
        if self._error is not None:
            raise self._error
        clips = [self._decoding.submit(try_load, work.utterance) for work in batch.work]
        self._encoding.submit(self._encode, batch, clips)

    def stop(self) -> None:
        """Leave what is not begun. Leaving the pipeline commits the rest."""
        self._stopped = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = self._stopped or error is not None
        self._encoding.shutdown(wait=True)
        self._decoding.shutdown(wait=True, cancel_futures=True)
        self._writing.shutdown(wait=True)
        cause = error or self._error
        self._writers.__exit__(type(cause) if cause else None, cause, trace)
        if error is None and self._error is not None:
            raise self._error

    def _encode(self, batch: Batch, clips: list["Future[Clip | AudioError]"]) -> None:
        try:
            if self._stopped:
                return
            loaded, done = _collect(batch, clips)
            made = {}
            for outlet in self._outlets:
                key = outlet.fingerprint
                made[key], failures, done.encoder_seconds[key] = outlet.encode(loaded)
                done.failures.setdefault(key, []).extend(failures)
            size = sum(e.frames.nbytes for encoded in made.values() for _, _, e in encoded)
            self._to_write.add(size)
            self._writing.submit(self._write, batch, made, done, size)
        except BaseException as error:
            self._fail(error)
        finally:
            self._in_hand.release()

    def _write(self, batch: Batch, made: dict[str, Encoded], done: BatchDone, size: int) -> None:
        try:
            if self._write_failed:
                return
            for outlet in self._outlets:
                done.failures[outlet.fingerprint] += outlet.write(made[outlet.fingerprint])
                if batch.alone:
                    outlet.writer.commit()
            self._emit(done)
        except BaseException as error:
            self._write_failed = True
            self._fail(error)
        finally:
            self._to_write.remove(size)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first = self._error is None
            self._error = self._error or error
            self._stopped = True
        if first:
            self._emit(Broken.of(error))


def try_load(utterance: Utterance) -> Clip | AudioError:
    """The decoded clip, or why it cannot be."""
    try:
        return load_clip(utterance)
    except AudioError as error:
        return error


def _collect(
    batch: Batch, clips: list["Future[Clip | AudioError]"]
) -> tuple[list[tuple[Work, Clip]], BatchDone]:
    """The clips that could be decoded, and a report that holds the others' failures."""
    done = BatchDone(batch.number, {}, {}, {})
    loaded = []
    for work, future in zip(batch.work, clips, strict=True):
        clip = future.result()
        if isinstance(clip, Clip):
            loaded.append((work, clip))
            done.seconds[work.utterance.id] = clip.seconds
            continue
        for key in work.lacking:
            failure = Failure(work.utterance.id, work.utterance.audio, str(clip))
            done.failures.setdefault(key, []).append(failure)
    return loaded, done


class StopWork(Exception):  # noqa: N818 (nothing has failed)
    """The coordinator wants no more; what is encoded is committed."""


def serve(job: Job, batches: Iterable[Batch], emit: Emit) -> None:
    """A worker's whole life: load, encode the batches as they come, commit, and say so.

    `batches` ends when there is no more work, or raises `StopWork` when what is not begun shall be
    left. `Finished` is the last event, whatever happened.
    """
    try:
        if job.threads:
            torch.set_num_threads(job.threads)
        if job.url:
            job = replace(job, cache=open_mirror(job.url))
        with Pipeline(job, emit) as pipeline:
            emit(Ready(os.getpid()))
            for batch in batches:
                pipeline.submit(batch)
    except StopWork:
        pass
    except BaseException as error:
        emit(Broken.of(error))
    emit(Finished())
