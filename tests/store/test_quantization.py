"""Quantization: no measured value is clipped, and stores with different scales never mix."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.errors import StoreError
from rellm_cache.store.format import StoreInfo
from rellm_cache.store.matching import find_store
from rellm_cache.store.part import frames_crc32c
from rellm_cache.store.quantization import ChannelStatistics, Quantization
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter


@pytest.fixture
def frames() -> np.ndarray:
    """(900, 8) float16: one channel with an offset, one with outliers, one constant."""
    values = np.random.default_rng(1).normal(size=(900, 8))
    values[:, 1] += 50
    values[3, 2] = 400
    values[:, 3] = -0.5
    return values.astype(np.float16)


def measured(*clips: np.ndarray) -> Quantization:
    statistics = ChannelStatistics()
    for clip in clips:
        statistics.add(clip)
    return statistics.quantization()


def test_the_rounding_error_is_at_most_half_a_step(frames: np.ndarray) -> None:
    steps = measured(frames[:300], frames[300:])
    stored = steps.quantize(frames)
    assert stored.dtype == np.int8
    assert stored.min() >= -127
    error = np.abs(steps.dequantize(stored) - frames)
    assert (error <= 0.501 * steps.scale).all()
    assert not error[:, 3].any()  # a constant channel is exact
    np.testing.assert_allclose(steps.mean, frames.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_statistics_do_not_depend_on_how_clips_are_cut(frames: np.ndarray) -> None:
    whole, pieces = measured(frames), measured(*np.array_split(frames, 7))
    np.testing.assert_allclose(whole.mean, pieces.mean, rtol=1e-6)
    np.testing.assert_allclose(whole.scale, pieces.scale, rtol=1e-6)
    assert whole.equals(whole)
    assert not whole.equals(replace(whole, scale=whole.scale * 2))


def test_values_out_of_range_are_clipped(frames: np.ndarray) -> None:
    steps = measured(frames)
    assert steps.quantize(np.full((1, 8), 1e4)).tolist() == [[127] * 8]
    assert steps.quantize(np.full((1, 8), -1e4)).tolist() == [[-127] * 8]


def write(cache: Path, info: StoreInfo, steps: Quantization, **clips: np.ndarray) -> FeatureStore:
    with StoreWriter(cache, info, steps) as writer:
        for key, value in clips.items():
            writer.add(key, np.zeros(32, np.uint8), value)
    return FeatureStore(writer.path)


@pytest.fixture
def int8(info: StoreInfo) -> StoreInfo:
    return replace(info, spec=replace(info.spec, dtype="int8"))


def test_an_int8_store_returns_its_frames(
    tmp_path: Path, int8: StoreInfo, frames: np.ndarray
) -> None:
    steps = measured(frames)
    store = write(tmp_path, int8, steps, a=frames[:700], b=frames[700:])
    assert store.path.name.startswith("prosody-int8-")
    read = store.verified_frames("b")
    assert read.dtype == store.dtype == np.int8
    np.testing.assert_array_equal(read, steps.quantize(frames[700:]))
    assert store.quantization is not None
    assert store.quantization.equals(steps)
    assert store.parts[0].frames_crc32c[1] == frames_crc32c(read)
    assert find_store(tmp_path, int8.spec) == store.path


def test_int8_and_float16_are_different_stores(
    tmp_path: Path, info: StoreInfo, int8: StoreInfo, frames: np.ndarray
) -> None:
    assert info.spec.fingerprint != int8.spec.fingerprint
    with StoreWriter(tmp_path, info) as writer:
        writer.add("a", np.zeros(32, np.uint8), frames)
    assert FeatureStore(writer.path).quantization is None
    with pytest.raises(
        StoreError, match=r"as float16, the recipe asks for int8; .* cache quantize"
    ):
        find_store(tmp_path, int8.spec)
    with pytest.raises(ValueError, match="a store of int8 with quantization None"):
        StoreWriter(tmp_path, int8)


def test_parts_with_another_scale_are_an_error(
    tmp_path: Path, int8: StoreInfo, frames: np.ndarray
) -> None:
    write(tmp_path, int8, measured(frames), a=frames)
    store = write(tmp_path, int8, measured(frames[:10]), b=frames)
    with pytest.raises(
        StoreError, match=r"part-000002-.* its int8 scale and mean differ .* different stores"
    ):
        _ = store.quantization


def test_frames_of_another_type_are_an_error(
    tmp_path: Path, info: StoreInfo, int8: StoreInfo, frames: np.ndarray
) -> None:
    quantised = write(tmp_path, int8, measured(frames), a=frames)
    with StoreWriter(tmp_path, info) as writer:
        writer.add("b", np.zeros(32, np.uint8), frames)
    quantised.parts[0].path.rename(writer.path / "part-000009-00000000")
    with pytest.raises(StoreError, match=r"damaged: .* frames are int8, .* encoder says float16"):
        FeatureStore(writer.path).frames("a")


def test_an_empty_store_has_no_scale(tmp_path: Path, int8: StoreInfo, frames: np.ndarray) -> None:
    with pytest.raises(StoreError, match="has no clips yet"):
        _ = write(tmp_path, int8, measured(frames)).quantization
