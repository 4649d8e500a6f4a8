"""Clips, joined. In: frames of clips, where they lie in memory. Out: one padded array, filled.

A batch has dozens of pieces, and numpy gives Python's lock up and takes it again for each. Threads
that fill batches side by side then wait for one another more than they copy. Here one call copies
all pieces of a batch without the lock.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

ZEROS = 0  # in place of an address

# Of the C library; the first argument is where to write.
_copy: Any = types.ExternalFunction("memcpy", types.voidptr(types.uintp, types.uintp, types.size_t))
_fill: Any = types.ExternalFunction("memset", types.voidptr(types.uintp, types.intc, types.size_t))


def join(clips: Iterable[Sequence[np.ndarray]], lengths: Sequence[int], out: np.ndarray) -> None:
    """Copy the pieces of each clip, then zeros, into its row of `out`.

    Args:
        clips: for each of B rows pieces (L, D), one after another.
        lengths: frames of each row's pieces in all; at most T.
        out: (B, T, D), contiguous.

    Raises:
        ValueError: rows or lengths are others, pieces of another type, or `out` cannot be written
            as one block.
    """
    row_bytes, frame_bytes = out[:1].nbytes, out[:1, :1].nbytes
    held: list[np.ndarray] = []  # addresses keep nothing alive
    addresses: list[int] = []
    sizes: list[int] = []
    for pieces, length in zip(clips, lengths, strict=True):
        left = row_bytes
        for piece in pieces:
            lying = piece if piece.flags.c_contiguous else np.ascontiguousarray(piece)
            if lying.dtype != out.dtype:
                raise ValueError(f"frames are {lying.dtype}, expected {out.dtype}")
            held.append(lying)
            addresses.append(_address(lying))
            sizes.append(lying.nbytes)
            left -= lying.nbytes
        if not 0 <= left == row_bytes - length * frame_bytes:
            raise ValueError(f"{row_bytes - left} bytes of a clip of {length} frames")
        addresses.append(ZEROS)
        sizes.append(left)
    if len(lengths) != len(out) or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"{len(lengths)} clips do not fit into {out.shape}")
    _write(_address(out), np.array(addresses, np.uintp), np.array(sizes, np.uintp))


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


@njit("void(uintp, uintp[::1], uintp[::1])", nogil=True)
def _write(to: int, addresses: NDArray[np.uintp], sizes: NDArray[np.uintp]) -> None:
    """Write so many bytes from each address, or zeros, end to end."""
    for piece in range(len(sizes)):
        if addresses[piece] == ZEROS:
            _fill(to, 0, sizes[piece])
        else:
            _copy(to, addresses[piece], sizes[piece])
        to += sizes[piece]
