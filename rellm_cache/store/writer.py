"""Writing a store. In: rows one at a time. Out: committed parts, each in one atomic step.

A part is gathered in memory, written under `.writing/` and committed (`outgoing`). Until then it
does not exist for any reader; after it, it never changes. Several writers, in
any number of processes, may fill one store: each commits parts of its own.
"""

import errno
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import zarr
from numpy.typing import NDArray

from rellm_cache.errors import FrameError, StoreError
from rellm_cache.store.layout import (
    WRITING,
    Frames,
    StoreInfo,
    next_part_name,
    read_info,
    require_root,
    store_path,
)
from rellm_cache.store.locks import claim, removing
from rellm_cache.store.outgoing import commit_part, part_names, send_new_store
from rellm_cache.store.part_writer import Row, write_part
from rellm_cache.store.quantisation import Quantisation
from rellm_cache.store.syncing import sync_path, sync_tree

PART_BYTES = 256 << 20
PART_SECONDS = 60.0
INFINITE, MINUS_INFINITE = 0x7C00, 0xFC00  # bits of a float16; beyond each are no numbers


class StoreWriter:
    """Adds encoded clips to the store of one encoder spec under a cache root.

    Use it as a context manager: leaving it commits the open part, also when the work was
    interrupted, so that nothing encoded is lost; only a failed write gives the part up.

    Args:
        cache: root.
        info: of the store; where it exists already, its own attributes hold.
        quantisation: of an int8 store: the same for all its parts.
        writers: what makes the frames, as `devices.describe_machine` says it; recorded in every
            part.
        part_seconds: an open part is committed when it is so old and a clip is added.
    """

    def __init__(
        self,
        cache: Path,
        info: StoreInfo,
        quantisation: Quantisation | None = None,
        *,
        writers: Sequence[dict[str, str]] = (),
        part_seconds: float = PART_SECONDS,
    ) -> None:
        if (info.dtype == np.int8) != (quantisation is not None):
            raise ValueError(f"a store of {info.spec.dtype} with quantisation {quantisation}")
        self._cache = cache
        self._quantisation = quantisation
        self.path = store_path(cache, info.spec)
        self._info = info
        self._writers = writers
        self._part_seconds = part_seconds
        self._rows: list[Row] = []
        self._ids: set[str] = set()  # of the rows
        self._bytes = 0
        self._opened = time.monotonic()
        self.bytes_written = 0

    def __enter__(self) -> Self:
        self._info = read_info(create_store(self._cache, self._info))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, StoreError):
            self.commit()

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
        if self._quantisation is not None:
            stored = self._quantisation.quantise(stored)
        if utterance_id in self._ids:
            self.commit()  # a part holds an id once
        self._rows.append(Row(utterance_id, audio_sha256, stored, vad))
        self._ids.add(utterance_id)
        self._bytes += stored.nbytes
        if self._bytes >= PART_BYTES or time.monotonic() - self._opened > self._part_seconds:
            self.commit()

    def commit(self) -> None:
        """Write the open part and make it appear in the store, whole, or not at all."""
        rows, self._rows = self._rows, []
        self._ids.clear()
        size, self._bytes = self._bytes, 0
        self._opened = time.monotonic()
        if not rows:
            return
        suffix = secrets.token_hex(4)
        temporary = self._cache / WRITING / f"{self.path.name}-{suffix}"
        try:
            with claim(temporary), removing(temporary):
                write_part(temporary, rows, self._info, self._quantisation, self._writers)
                sync_tree(temporary)
                name = next_part_name(part_names(self.path), suffix)
                commit_part(temporary, self.path / name)
        except OSError as error:
            raise _write_failed(self.path, error, len(rows), size) from error
        self.bytes_written += size


def create_store(cache: Path, info: StoreInfo) -> Path:
    """The store of this fingerprint under `cache`; made in one step if there is none.

    Raises:
        StoreError: it cannot be written, or `cache` is a store itself.
        RemoteError: the folder is a copy of an object store, which cannot be reached.
    """
    store = store_path(cache, info.spec)
    if store.exists():
        return store
    require_root(cache)
    temporary = cache / WRITING / f"{store.name}-{secrets.token_hex(4)}"
    try:
        with claim(temporary), removing(temporary):
            zarr.create_group(str(temporary), attributes=info.to_attributes())
            sync_tree(temporary)
            send_new_store(temporary / "zarr.json", store)
            temporary.rename(store)
            sync_path(cache)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another writer won the race
            raise _write_failed(store, error, 0, 0) from error
    return store


def _write_failed(store: Path, error: OSError, clips: int, size: int) -> StoreError:
    reason = error.strerror or str(error)
    hint = "free some space" if error.errno == errno.ENOSPC else "check the folder"
    return StoreError(
        f"{store}: could not write a part of {clips} clips ({size / 1e6:.1f} MB): "
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
    return frames.astype(np.float32, copy=False)


def _check_shape(frames: np.ndarray, utterance_id: str, frame_size: int) -> None:
    if frames.ndim != 2 or frames.shape[1] != frame_size or not len(frames):
        raise FrameError(
            f"{utterance_id}: frames have shape {frames.shape}, expected (L, {frame_size}), L > 0"
        )
