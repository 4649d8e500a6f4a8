"""Atomic folders: written beside their place, renamed when every byte is on the disk.

A kill leaves nothing that could be taken for the finished folder, and the next call removes what
it left. The folder that is replaced stays until then.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rellm_cache.errors import RellmError
from rellm_cache.utils.atomic_files import sync_path, sync_tree

SPARE_BYTES = 64_000_000  # tokenizer, configuration, what the file system itself takes


@contextmanager
def new_folder(out: Path, needed_bytes: int) -> Iterator[Path]:
    """A temporary folder that becomes `out` where the block ends without an error.

    Raises:
        RellmError: `out` holds something, another process is writing it, there is too little room,
            or writing failed.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RellmError(f"{out}: is there already; choose another --out, or remove it first")
    with replaced_folder(out, needed_bytes) as temporary:
        yield temporary


@contextmanager
def replaced_folder(out: Path, needed_bytes: int) -> Iterator[Path]:
    """A temporary folder that takes the place of `out`, if there is one, as the block ends.

    Whatever happens, one of the two is on the disk whole. Between the two renames that is the old
    one, as `.<name>.replaced`; the next call puts it back before anything else.

    Raises:
        RellmError: another process is writing it, there is too little room, or writing failed.
    """
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    temporary, old = parent / f".{out.name}.partial", parent / f".{out.name}.replaced"
    with _alone(temporary, out):
        try:
            _settle(out, old)
            _require_room(out, needed_bytes)
            yield temporary
            sync_tree(temporary)
            if out.exists():
                out.rename(old)
            temporary.rename(out)
            sync_path(parent)
            _settle(out, old)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise RellmError(
                f"{out}: could not be written ({error}); free some space or check the folder, and "
                "run the same command again"
            ) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _settle(out: Path, old: Path) -> None:
    """End a replacement: the old folder goes, or comes back where none has taken its place."""
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(out)


def _require_room(out: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(out.absolute().parent).free
    if free < needed_bytes + SPARE_BYTES:
        raise RellmError(
            f"{out}: {(needed_bytes + SPARE_BYTES) / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; "
            "free some space or choose another --out"
        )


@contextmanager
def _alone(temporary: Path, out: Path) -> Iterator[None]:
    """Hold an empty temporary folder; its lock ends with this process, however that ends."""
    temporary.mkdir(exist_ok=True)
    handle = os.open(temporary, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise RellmError(f"{out}: another import is writing it; wait for that one") from error
        for left in temporary.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        os.close(handle)
