"""Joining: many pieces in one call; pieces that do not fit are not written."""

import threading

import numpy as np
import pytest

from rellm_cache.data.copy_padded import copy_padded


def clip(length: int, dtype: str = "float16", size: int = 6) -> np.ndarray:
    random = np.random.default_rng(length)
    return random.integers(-100, 100, (length, size)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_pieces_lie_end_to_end_and_zeros_follow(dtype: str) -> None:
    out = np.full((3, 7, 6), 99, dtype)
    copy_padded([[clip(4, dtype)], [clip(5, dtype), clip(2, dtype)], []], [4, 7, 0], out)
    np.testing.assert_array_equal(out[0, :4], clip(4, dtype))
    np.testing.assert_array_equal(out[1], np.concatenate([clip(5, dtype), clip(2, dtype)]))
    assert not out[0, 4:].any()
    assert not out[2].any()


def test_pieces_may_lie_in_any_order() -> None:
    transposed, strided = np.asfortranarray(clip(4)), clip(6)[::2]
    out = np.empty((2, 5, 6), np.float16)
    copy_padded([[transposed], [strided]], [4, 3], out)
    np.testing.assert_array_equal(out[0, :4], transposed)
    np.testing.assert_array_equal(out[1, :3], strided)


def test_pieces_that_nobody_else_holds_are_copied_whole() -> None:
    out = np.empty((40, 500, 6), np.float16)
    copy_padded(([clip(length)] for length in range(400, 440)), range(400, 440), out)
    for row, length in enumerate(range(400, 440)):
        np.testing.assert_array_equal(out[row, :length], clip(length))


@pytest.mark.parametrize(
    ("clips", "lengths"),
    [
        ([[clip(8)], [clip(1)]], [8, 1]),  # longer than a row
        ([[clip(3)], [clip(1)]], [4, 1]),  # a frame is missing
        ([[clip(3)]], [3]),  # a row is missing
        ([[clip(3)], [clip(1)], [clip(1)]], [3, 1, 1]),
        ([[clip(3)], [clip(1, "int8")]], [3, 1]),
        ([[clip(3)], [clip(1)]], [3]),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    clips: list[list[np.ndarray]], lengths: list[int]
) -> None:
    out = np.full((2, 7, 6), 99, np.float16)
    with pytest.raises(ValueError, match=r"clip|frames are|shorter"):
        copy_padded(clips, lengths, out)
    assert (out == 99).all()


def test_memory_that_is_read_only_or_scattered_is_not_written() -> None:
    fixed, scattered = np.zeros((1, 2, 6), np.float16), np.zeros((3, 2, 6), np.float16)[::2]
    fixed.flags.writeable = False
    for out in (fixed, scattered):
        with pytest.raises(ValueError, match="do not fit"):
            copy_padded([[clip(2)]] * len(out), [2] * len(out), out)
        assert not out.any()


def test_threads_join_side_by_side() -> None:
    outs = [np.empty((2, 300, 6), np.float16) for _ in range(8)]
    threads = [
        threading.Thread(target=copy_padded, args=([[clip(300)], [clip(9)]], [300, 9], out))
        for out in outs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out[0], clip(300))
        np.testing.assert_array_equal(out[1, :9], clip(9))
        assert not out[1, 9:].any()
