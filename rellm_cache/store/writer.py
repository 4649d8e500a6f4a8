"""Writer of a feature store: clips are added singly and committed in parts, each by one rename.

An open part grows on disk under `.writing/`, where no reader sees it; a committed part never
changes. Any number of writers and processes may fill one store: each commits its own parts.
"""

import contextlib
import errno
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import zarr
from numpy.typing import NDArray

from rellm_cache.errors import FrameError, StoreError
from rellm_cache.store.format import (
    WRITING,
    Frames,
    StoreInfo,
    next_part_name,
    read_info,
    require_cache_root,
    store_path,
)
from rellm_cache.store.locks import remove_own_stale, removed_on_exit, with_hostname
from rellm_cache.store.part_writer import PartWriter, Row
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.upload import commit_part, part_names, upload_new_store
from rellm_cache.utils.atomic_files import rename_new, sync_tree
from rellm_cache.utils.console import counted
from rellm_cache.utils.locks import hold_lock

PART_BYTES = 256 << 20
PART_SECONDS = 60.0
MAX_PENDING_CLIPS = 8  # added but not written yet
INFINITE, MINUS_INFINITE = 0x7C00, 0xFC00  # float16 bits; larger ones of each sign are NaN


class StoreWriter:
    """Adds encoded clips to the store of one encoder spec under a cache root.

    Use it as a context manager. Leaving it commits the open part, also after an interrupt or an
    error elsewhere, so nothing encoded is lost; only a failed write discards the part. Entering it
    removes open parts that dead writers of this machine left.

    Args:
        cache: root.
        info: of the store; an existing store keeps its own attributes.
        quantization: of an int8 store, the same for all parts.
        writers: machines that make the frames, as `devices.describe_machine` describes them;
            recorded in every part.
        part_seconds: age at which an open part is committed, when a clip is added.
        part_bytes: size of frames at which it is committed.
    """

    def __init__(
        self,
        cache: Path,
        info: StoreInfo,
        quantization: Quantization | None = None,
        *,
        writers: Sequence[dict[str, str]] = (),
        part_seconds: float = PART_SECONDS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        if (info.dtype == np.int8) != (quantization is not None):
            raise ValueError(f"a store of {info.spec.dtype} with quantization {quantization}")
        self._cache = cache
        self._quantization = quantization
        self.path = store_path(cache, info.spec)
        self._info = info
        self._writers = writers
        self._part_seconds = part_seconds
        self._part_bytes = part_bytes
        self._part: _OpenPart | None = None
        self.bytes_written = 0

    def __enter__(self) -> Self:
        found = read_info(create_store(self._cache, self._info))
        self._info = replace(found, shard_bytes=self._info.shard_bytes)
        remove_own_stale(self._cache)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.commit()
        finally:
            self._close_part()

    def add(
        self,
        utterance_id: str,
        audio_sha256: np.ndarray,
        frames: np.ndarray,
        vad: np.ndarray | None = None,
    ) -> None:
        """Add one clip; commit if the open part is large or old, or has the id already.

        Raises `FrameError` if frames have another shape, are not finite, or exceed the store's
        type; `StoreError` if a part could not be written; earlier parts are kept.

        Args:
            audio_sha256: (32,) uint8 digest of the audio.
            frames: (L, D) float32 or float16, to be converted to the store's type; in a store of K
                layers (L, K, D).
            vad: (3,) float32 arousal, dominance, valence of the encoder's head, if it has one.
        """
        stored: Frames
        if self._info.dtype == np.float32:
            stored = to_float32(frames, utterance_id, self._info.frame_shape)
        else:
            stored = to_float16(frames, utterance_id, self._info.frame_shape)
        if self._quantization is not None:
            stored = self._quantization.quantize(stored)
        if self._part is not None and utterance_id in self._part.ids:
            self.commit()  # a part has an id only once
        with self._discarding_on_error():
            if self._part is None:
                self._part = _OpenPart(self.path, self._info, self._quantization)
            self._part.add(Row(utterance_id, audio_sha256, stored, vad))
        if self._part.nbytes >= self._part_bytes or self._part.age > self._part_seconds:
            self.commit()

    def commit(self) -> None:
        """Complete the open part and rename it into the store."""
        if self._part is None:
            return
        with self._discarding_on_error():
            self._part.commit(self._writers)
        self.bytes_written += self._part.nbytes
        self._close_part()

    @contextlib.contextmanager
    def _discarding_on_error(self) -> Iterator[None]:
        """Discard the open part if it cannot be written, and raise `StoreError`."""
        try:
            yield
        except OSError as error:
            clips, size = (len(self._part.ids), self._part.nbytes) if self._part else (0, 0)
            with contextlib.suppress(OSError):  # closing may fail for the same reason
                self._close_part()
            raise _write_error(self.path, error, clips, size) from error

    def _close_part(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.close()


class _OpenPart:
    """A part under `.writing/`, written by its own thread while the caller makes the next clip.

    The thread also protects a clip that is being written from interrupts. `close` releases the lock
    and removes the part unless it was committed.
    """

    def __init__(self, store: Path, info: StoreInfo, quantization: Quantization | None) -> None:
        self._store = store
        self._suffix = secrets.token_hex(4)
        self._path = store.parent / WRITING / with_hostname(f"{store.name}-{self._suffix}")
        self._opened = time.monotonic()
        self._pending: deque[Future[None]] = deque()
        self._committed: Future[None] | None = None
        self.ids: set[str] = set()  # of its clips
        self.nbytes = 0  # size of their frames
        with ExitStack() as stack:
            stack.enter_context(hold_lock(self._path))
            stack.enter_context(removed_on_exit(self._path))
            self._writer = stack.enter_context(closing(PartWriter(self._path, info, quantization)))
            self._thread = stack.enter_context(ThreadPoolExecutor(1, "rellm-write"))
            self._held = stack.pop_all()

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._opened

    def add(self, row: Row) -> None:
        """Queue a clip; wait while the queue is full. An `OSError` may be an earlier clip's."""
        self._pending.append(self._thread.submit(self._writer.add, row))
        self.ids.add(row.id)
        self.nbytes += row.frames.nbytes
        while len(self._pending) > MAX_PENDING_CLIPS:
            self._pending.popleft().result()

    def commit(self, writers: Sequence[dict[str, str]]) -> None:
        """Complete and sync the part, and rename it into the store.

        An interrupt does not stop the thread; a second call waits for its end.
        """
        while self._pending:
            self._pending.popleft().result()
        if self._committed is None:
            self._committed = self._thread.submit(self._complete, writers)
        self._committed.result()

    def _complete(self, writers: Sequence[dict[str, str]]) -> None:
        self._writer.finish(writers)
        sync_tree(self._path)
        name = next_part_name(part_names(self._store), self._suffix)
        commit_part(self._path, self._store / name)

    def close(self) -> None:
        """End the thread after the current clip, then release the lock."""
        self._thread.shutdown(cancel_futures=True)
        self._held.close()


def create_store(cache: Path, info: StoreInfo) -> Path:
    """Return the folder of a store under `cache`; create it, by one rename, if it is absent.

    Raises `StoreError` if it cannot be written, or `cache` is itself a store.
    """
    store = store_path(cache, info.spec)
    if store.exists():
        return store
    require_cache_root(cache)
    temporary = cache / WRITING / f"{store.name}-{secrets.token_hex(4)}"
    try:
        with hold_lock(temporary), removed_on_exit(temporary):
            zarr.create_group(str(temporary), attributes=info.to_attributes())
            sync_tree(temporary)
            upload_new_store(temporary / "zarr.json", store)
            rename_new(temporary, store)
    except OSError as error:
        raise _write_error(store, error, 0, 0) from error
    return store


def _write_error(store: Path, error: OSError, clips: int, size: int) -> StoreError:
    reason = error.strerror or str(error)
    hint = "free some space" if error.errno == errno.ENOSPC else "check the folder"
    return StoreError(
        f"{store}: could not write a part of {counted(clips, 'clip')} ({size / 1e6:.1f} MB): "
        f"{reason}; {hint} and run the same command again: the store is intact and keeps all "
        "parts committed earlier"
    )


def to_float16(frames: np.ndarray, utterance_id: str, shape: tuple[int, ...]) -> np.ndarray:
    """Convert L frames of a shape, (D,) or (K, D), to float16.

    Raises `FrameError` if the shape differs or a value is out of range.
    """
    _check_shape(frames, utterance_id, shape)
    with np.errstate(over="ignore"):
        stored = frames.astype(np.float16)
    # Comparing bits is faster than isfinite: infinity and NaN have all exponent bits set.
    if stored.view(np.int16).max() < INFINITE and stored.view(np.uint16).max() < MINUS_INFINITE:
        return stored
    if not np.isfinite(frames).all():
        raise FrameError(f"{utterance_id}: frames are not finite; the encoder failed on this clip")
    raise FrameError(
        f"{utterance_id}: a frame has the value {float(np.abs(frames).max()):.0f}, the largest "
        "float16 is 65504; this encoder's frames cannot be stored"
    )


def to_float32(
    frames: np.ndarray, utterance_id: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Copy (L, D) teacher rows as float32; `FrameError` names a clip with values not finite."""
    _check_shape(frames, utterance_id, shape)
    if not np.isfinite(frames).all():
        raise FrameError(f"{utterance_id}: predictions are not finite; the LLM failed on this clip")
    return frames.astype(np.float32)  # a copy, because another thread writes it


def _check_shape(frames: np.ndarray, utterance_id: str, shape: tuple[int, ...]) -> None:
    if frames.shape[1:] != shape or not len(frames):
        expected = ", ".join(map(str, ("L", *shape)))
        raise FrameError(
            f"{utterance_id}: frames have shape {frames.shape}, expected ({expected}), L > 0"
        )
