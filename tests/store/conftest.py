"""A small store written by the real writer: random frames of eight values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rellm_cache.config import EncoderSpec
from rellm_cache.store.layout import StoreInfo
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

FRAME_SIZE = 8


@pytest.fixture
def info() -> StoreInfo:
    """Attributes of a store as the prosody encoder would have, but narrower."""
    return StoreInfo(EncoderSpec(kind="prosody"), FRAME_SIZE, "test licence")


@pytest.fixture
def clips() -> dict[str, np.ndarray]:
    """Twelve clips of 40 to 700 frames, (L, 8) float16."""
    random = np.random.default_rng(1)
    return {
        f"clip/{index:02d}": random.normal(size=(40 + 60 * index, FRAME_SIZE)).astype(np.float16)
        for index in range(12)
    }


@pytest.fixture
def write(tmp_path: Path, info: StoreInfo) -> Callable[..., FeatureStore]:
    """`write(clips)` adds one part to the cache and opens the store."""

    def add(clips: dict[str, np.ndarray], digest: int = 0) -> FeatureStore:
        with StoreWriter(tmp_path, info) as writer:
            for key, frames in clips.items():
                writer.add(key, np.full(32, digest, np.uint8), frames)
        return FeatureStore(writer.path)

    return add
