"""Copy of variable-length clips into one zero-padded array, in a single call without the GIL.

A batch has dozens of pieces. numpy releases and takes the GIL for each piece, so threads that fill
batches in parallel would wait longer than they copy.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

ZEROS = 0  # used in place of an address: write zeros

# From the C library; the first argument is the destination.
_copy: Any = types.ExternalFunction("memcpy", types.voidptr(types.uintp, types.uintp, types.size_t))
_fill: Any = types.ExternalFunction("memset", types.voidptr(types.uintp, types.intc, types.size_t))


def copy_padded(
    clips: Iterable[Sequence[np.ndarray]], lengths: Sequence[int], out: np.ndarray
) -> None:
    """Copy the pieces of each clip into its row of `out`, followed by zeros.

    Args:
        clips: for each of the B rows, its pieces in order: arrays (L, D).
        lengths: total frames of each row, at most T.
        out: (B, T, D), contiguous, of the pieces' dtype; or D neighbouring values of each frame of
            such an array, for one of several layers. Other values are not touched.

    Raises:
        ValueError: pieces do not match `lengths` or the dtype of `out`, or `out` is read-only or
            not contiguous. In these cases nothing is written.
    """
    row_bytes, frame_bytes = out[:1].nbytes, out[:1, :1].nbytes
    # bytes from one frame to the next
    step = frame_bytes if out.flags.c_contiguous else out.strides[1]
    held: list[np.ndarray] = []  # keeps the pieces alive while only their addresses are used
    addresses: list[int] = []
    sizes: list[int] = []
    for pieces, length in zip(clips, lengths, strict=True):
        left = row_bytes
        for piece in pieces:
            piece = np.ascontiguousarray(piece)
            if piece.dtype != out.dtype:
                raise ValueError(f"frames are {piece.dtype}, expected {out.dtype}")
            held.append(piece)
            addresses.append(_address(piece))
            sizes.append(piece.nbytes)
            left -= piece.nbytes
        if not 0 <= left == row_bytes - length * frame_bytes:
            raise ValueError(
                f"clip of {length} frames: found pieces of {row_bytes - left} bytes, expected "
                f"{length * frame_bytes}, and at most {row_bytes}"
            )
        addresses.append(ZEROS)
        sizes.append(left)
    whole = (step * out.shape[1], step, out.itemsize)
    is_regular = out.flags.c_contiguous or (step >= frame_bytes and out.strides == whole)
    if len(lengths) != len(out) or not (is_regular and out.flags.writeable):
        raise ValueError(
            f"{len(lengths)} clips do not fit into {out.shape}; expected writable, contiguous "
            "memory with a row for each clip"
        )
    items = np.array(addresses, np.uintp), np.array(sizes, np.uintp)
    if step == frame_bytes:
        _write(_address(out), *items)
    else:
        _write_frames(_address(out), frame_bytes, step, *items)


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


@njit("void(uintp, uintp[::1], uintp[::1])", nogil=True)
def _write(to: int, addresses: NDArray[np.uintp], sizes: NDArray[np.uintp]) -> None:
    """Write `sizes` bytes from each address, or zeros, one after another."""
    for i in range(len(sizes)):
        if addresses[i] == ZEROS:
            _fill(to, 0, sizes[i])
        else:
            _copy(to, addresses[i], sizes[i])
        to += sizes[i]


@njit("void(uintp, uintp, uintp, uintp[::1], uintp[::1])", nogil=True)
def _write_frames(
    to: int, frame_bytes: int, step: int, addresses: NDArray[np.uintp], sizes: NDArray[np.uintp]
) -> None:
    """As `_write`, but each frame of `frame_bytes` goes `step` bytes behind the last one."""
    for i in range(len(sizes)):
        address = addresses[i]
        for _ in range(sizes[i] // frame_bytes):
            if addresses[i] == ZEROS:
                _fill(to, 0, frame_bytes)
            else:
                _copy(to, address, frame_bytes)
                address += frame_bytes
            to += step
