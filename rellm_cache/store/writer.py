"""Writing a store. In: rows one at a time. Out: committed parts, each in one atomic step.

A part grows under `.writing/`, on disk from its first clip, and is committed (`outgoing`). Until
then it does not exist for any reader; after it, it never changes. Several writers, in any number of
processes, may fill one store: each commits parts of its own.
"""

import contextlib
import errno
import secrets
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
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
from rellm_cache.store.locks import hold_lock, remove_own_stale, removed_on_exit, with_hostname
from rellm_cache.store.part_writer import PartWriter, Row
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.remote.upload import commit_part, part_names, upload_new_store
from rellm_cache.utils.atomic_files import rename_new, sync_tree
from rellm_cache.utils.console import counted

PART_BYTES = 256 << 20
PART_SECONDS = 60.0
CLIPS_IN_HAND = 8  # taken, and not written yet
INFINITE, MINUS_INFINITE = 0x7C00, 0xFC00  # bits of a float16; beyond each are no numbers


class StoreWriter:
    """Adds encoded clips to the store of one encoder spec under a cache root.

    Use it as a context manager: leaving it commits the open part, also when the work was
    interrupted or failed elsewhere, so that nothing encoded is lost; only a failed write of its own
    gives the part up. Entering it removes the open parts of writers of this machine that are dead.

    Args:
        cache: root.
        info: of the store; where it exists already, its own attributes hold.
        quantization: of an int8 store: the same for all its parts.
        writers: what makes the frames, as `devices.describe_machine` says it; recorded in every
            part.
        part_seconds: an open part is committed when it is so old and a clip is added.
    """

    def __init__(
        self,
        cache: Path,
        info: StoreInfo,
        quantization: Quantization | None = None,
        *,
        writers: Sequence[dict[str, str]] = (),
        part_seconds: float = PART_SECONDS,
    ) -> None:
        if (info.dtype == np.int8) != (quantization is not None):
            raise ValueError(f"a store of {info.spec.dtype} with quantization {quantization}")
        self._cache = cache
        self._quantization = quantization
        self.path = store_path(cache, info.spec)
        self._info = info
        self._writers = writers
        self._part_seconds = part_seconds
        self._part: _OpenPart | None = None
        self.bytes_written = 0

    def __enter__(self) -> Self:
        self._info = read_info(create_store(self._cache, self._info))
        remove_own_stale(self._cache)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.commit()
        finally:
            self._give_up()

    def add(
        self,
        utterance_id: str,
        audio_sha256: np.ndarray,
        frames: np.ndarray,
        vad: np.ndarray | None = None,
    ) -> None:
        """Take one clip; commits when the open part is large or old, or holds the id already.

        Args:
            audio_sha256: (32,) uint8 digest of the audio.
            frames: (L, D) float32 or float16; stored as the store's type.
            vad: (3,) float32 arousal, dominance, valence of the encoder's own head, if it has one.

        Raises:
            FrameError: the frames are not (L, D), not finite, or beyond the store's type.
            StoreError: a part could not be written; the store keeps its earlier parts.
        """
        stored: Frames
        if self._info.dtype == np.float32:
            stored = to_float32(frames, utterance_id, self._info.frame_size)
        else:
            stored = to_float16(frames, utterance_id, self._info.frame_size)
        if self._quantization is not None:
            stored = self._quantization.quantize(stored)
        if self._part is not None and utterance_id in self._part.ids:
            self.commit()  # a part holds an id once
        with self._giving_up():
            if self._part is None:
                self._part = _OpenPart(self.path, self._info, self._quantization)
            self._part.add(Row(utterance_id, audio_sha256, stored, vad))
        if self._part.nbytes >= PART_BYTES or self._part.age > self._part_seconds:
            self.commit()

    def commit(self) -> None:
        """Complete the open part and make it appear in the store, whole, or not at all."""
        if self._part is None:
            return
        with self._giving_up():
            self._part.commit(self._writers)
        self.bytes_written += self._part.nbytes
        self._give_up()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Give the open part up where it cannot be written, and say so."""
        try:
            yield
        except OSError as error:
            clips, size = (len(self._part.ids), self._part.nbytes) if self._part else (0, 0)
            with contextlib.suppress(OSError):  # what is full or forbidden is so for closing too
                self._give_up()
            raise _write_failed(self.path, error, clips, size) from error

    def _give_up(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.close()


class _OpenPart:
    """A part that is being written under `.writing/`, by a thread of its own.

    So the disk has work while the next clip is made, and an interrupt never leaves half a clip.
    Until `close`, its folder is claimed; what was not committed goes with it.

    Attributes:
        ids: of its clips.
        nbytes: of their frames.
    """

    def __init__(self, store: Path, info: StoreInfo, quantization: Quantization | None) -> None:
        self._store = store
        self._suffix = secrets.token_hex(4)
        self._path = store.parent / WRITING / with_hostname(f"{store.name}-{self._suffix}")
        self._opened = time.monotonic()
        self._in_hand: deque[Future[None]] = deque()
        self._committed: Future[None] | None = None
        self.ids: set[str] = set()
        self.nbytes = 0
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
        """Take a clip; waits while several are in hand. `OSError` may be that of an earlier one."""
        self._in_hand.append(self._thread.submit(self._writer.add, row))
        self.ids.add(row.id)
        self.nbytes += row.frames.nbytes
        while len(self._in_hand) > CLIPS_IN_HAND:
            self._in_hand.popleft().result()

    def commit(self, writers: Sequence[dict[str, str]]) -> None:
        """Complete it, get it onto the disk, and give it its place in the store.

        An interrupt does not stop it: called again, it waits for the end.
        """
        while self._in_hand:
            self._in_hand.popleft().result()
        if self._committed is None:
            self._committed = self._thread.submit(self._complete, writers)
        self._committed.result()

    def _complete(self, writers: Sequence[dict[str, str]]) -> None:
        self._writer.finish(writers)
        sync_tree(self._path)
        name = next_part_name(part_names(self._store), self._suffix)
        commit_part(self._path, self._store / name)

    def close(self) -> None:
        """Let go of it, after the clip that is being written."""
        self._thread.shutdown(cancel_futures=True)
        self._held.close()


def create_store(cache: Path, info: StoreInfo) -> Path:
    """The store of this fingerprint under `cache`; made in one step if there is none.

    Raises:
        StoreError: it cannot be written, or `cache` is a store itself.
        RemoteError: the folder is a copy of an object store, which cannot be reached.
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
        raise _write_failed(store, error, 0, 0) from error
    return store


def _write_failed(store: Path, error: OSError, clips: int, size: int) -> StoreError:
    reason = error.strerror or str(error)
    hint = "free some space" if error.errno == errno.ENOSPC else "check the folder"
    return StoreError(
        f"{store}: could not write a part of {counted(clips, 'clip')} ({size / 1e6:.1f} MB): "
        f"{reason}; {hint} and run the same command again: the store is valid and keeps "
        "every part committed before"
    )


def to_float16(frames: np.ndarray, utterance_id: str, frame_size: int) -> np.ndarray:
    """(L, D) frames as stored; `FrameError` names the clip whose values float16 cannot hold."""
    _check_shape(frames, utterance_id, frame_size)
    with np.errstate(over="ignore"):
        stored = frames.astype(np.float16)
    # By the bits, which is faster than isfinite: an exponent of all ones is infinite or no number.
    if stored.view(np.int16).max() < INFINITE and stored.view(np.uint16).max() < MINUS_INFINITE:
        return stored
    if not np.isfinite(frames).all():
        raise FrameError(f"{utterance_id}: frames are not finite; the encoder failed on this clip")
    raise FrameError(
        f"{utterance_id}: a frame holds {float(np.abs(frames).max()):.0f}, float16 ends at 65504; "
        "this encoder's frames cannot be stored"
    )


def to_float32(frames: np.ndarray, utterance_id: str, frame_size: int) -> NDArray[np.float32]:
    """(L, D) rows of a teacher as stored; `FrameError` names the clip whose rows are not finite."""
    _check_shape(frames, utterance_id, frame_size)
    if not np.isfinite(frames).all():
        raise FrameError(f"{utterance_id}: predictions are not finite; the LLM failed on this clip")
    return frames.astype(np.float32)  # a copy: it is written while the caller goes on


def _check_shape(frames: np.ndarray, utterance_id: str, frame_size: int) -> None:
    if frames.ndim != 2 or frames.shape[1] != frame_size or not len(frames):
        raise FrameError(
            f"{utterance_id}: frames have shape {frames.shape}, expected (L, {frame_size}), L > 0"
        )
