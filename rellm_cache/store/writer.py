"""Writing a store. In: rows one at a time. Out: committed parts, each in one atomic step.

A part is gathered in memory, written under `.writing/`, synced to disk and renamed into the store.
Until the rename it does not exist for any reader; after it, it never changes. Several writers, in
any number of processes, may fill one store: each commits parts of its own.
"""

import contextlib
import errno
import os
import secrets
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import zarr

from rellm_cache.errors import FrameError, StoreError
from rellm_cache.store.layout import (
    WRITING,
    StoreInfo,
    next_part_name,
    read_info,
    store_path,
)
from rellm_cache.store.part import Row, write_part

PART_BYTES = 256 << 20
PART_SECONDS = 60.0


class StoreWriter:
    """Adds encoded clips to the store of one encoder spec under a cache root.

    Use it as a context manager: leaving it commits the open part, also when the work was
    interrupted, so that nothing encoded is lost; only a failed write gives the part up.

    Args:
        part_seconds: an open part is committed when it is so old and a clip is added.
    """

    def __init__(self, cache: Path, info: StoreInfo, part_seconds: float = PART_SECONDS) -> None:
        self.path = store_path(cache, info.spec)
        self._writing = cache / WRITING
        self._info = info
        self._part_seconds = part_seconds
        self._rows: list[Row] = []
        self._bytes = 0
        self._opened = time.monotonic()
        self.bytes_written = 0

    def __enter__(self) -> Self:
        if self.path.exists():
            read_info(self.path)
        else:
            self._create()
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
        """Take one clip; commits when the open part is large or old.

        Args:
            audio_sha256: (32,) uint8 digest of the audio.
            frames: (L, D) float32 or float16.
            vad: (3,) float32 arousal, dominance, valence of the encoder's own head, if it has one.

        Raises:
            FrameError: the frames are not (L, D), not finite, or beyond float16.
            StoreError: a part could not be written; the store keeps its earlier parts.
        """
        stored = to_float16(frames, utterance_id, self._info.frame_size)
        self._rows.append(Row(utterance_id, audio_sha256, stored, vad))
        self._bytes += stored.nbytes
        if self._bytes >= PART_BYTES or time.monotonic() - self._opened > self._part_seconds:
            self.commit()

    def commit(self) -> None:
        """Write the open part and make it appear in the store, whole, or not at all."""
        rows, self._rows = self._rows, []
        size, self._bytes = self._bytes, 0
        self._opened = time.monotonic()
        if not rows:
            return
        suffix = secrets.token_hex(4)
        temporary = self._writing / f"{self.path.name}-{suffix}"
        try:
            self._writing.mkdir(exist_ok=True)
            write_part(temporary, rows, self._info.frame_size)
            sync_tree(temporary)
            temporary.rename(self.path / next_part_name(self.path, suffix))
            sync_folder(self.path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._write_failed(error, len(rows), size) from error
        with contextlib.suppress(OSError):
            self._writing.rmdir()  # succeeds for the last writer only
        self.bytes_written += size

    def _create(self) -> None:
        """Make the store's group appear in one step; another writer may win the race."""
        temporary = self._writing / f"{self.path.name}-{secrets.token_hex(4)}"
        try:
            self._writing.mkdir(parents=True, exist_ok=True)
            zarr.create_group(str(temporary), attributes=self._info.to_attributes())
            sync_tree(temporary)
            temporary.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise self._write_failed(error, 0, 0) from error
            read_info(self.path)

    def _write_failed(self, error: OSError, clips: int, size: int) -> StoreError:
        reason = error.strerror or str(error)
        hint = "free some space" if error.errno == errno.ENOSPC else "check the folder"
        return StoreError(
            f"{self.path}: could not write a part of {clips} clips ({size / 1e6:.1f} MB): "
            f"{reason}; {hint} and run the same command again: the store is valid and keeps "
            "every part committed before"
        )


def to_float16(frames: np.ndarray, utterance_id: str, frame_size: int) -> np.ndarray:
    """(L, D) frames as stored; `FrameError` names the clip whose values float16 cannot hold."""
    if frames.ndim != 2 or frames.shape[1] != frame_size or not len(frames):
        raise FrameError(
            f"{utterance_id}: frames have shape {frames.shape}, expected (L, {frame_size}), L > 0"
        )
    if not np.isfinite(frames).all():
        raise FrameError(f"{utterance_id}: frames are not finite; the encoder failed on this clip")
    largest = float(np.abs(frames).max())
    if largest > float(np.finfo(np.float16).max):
        raise FrameError(
            f"{utterance_id}: a frame holds {largest:.0f}, float16 ends at 65504; this encoder's "
            "frames cannot be stored"
        )
    return frames.astype(np.float16)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below and including `folder`."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync_folder(Path(root) / name)
        sync_folder(Path(root))


def sync_folder(path: Path) -> None:
    """fsync one file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
