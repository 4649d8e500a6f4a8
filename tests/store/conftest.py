"""A small store written by the real writer: random frames of eight values."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.store.format import SHARD_BYTES, StoreInfo
from rellm_cache.store.quantization import Quantization
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.writer import StoreWriter

FRAME_SIZE = 8


@pytest.fixture
def info(request: pytest.FixtureRequest) -> StoreInfo:
    """Attributes of a store of the prosody encoder, but narrower.

    A test may parametrize `info` indirectly with the type of stored values, float16 by default.
    """
    spec = EncoderSpec(kind="prosody", dtype=getattr(request, "param", "float16"))
    return StoreInfo(spec, FRAME_SIZE, "test licence")


@pytest.fixture
def steps(info: StoreInfo) -> Quantization | None:
    """Scale and mean of an int8 store; None for float16."""
    if info.dtype != np.int8:
        return None
    return Quantization(np.full(FRAME_SIZE, 0.04, np.float32), np.zeros(FRAME_SIZE, np.float32))


@pytest.fixture
def clips() -> dict[str, np.ndarray]:
    """Twelve clips of 40 to 700 frames, (L, 8) float16."""
    random = np.random.default_rng(1)
    return {
        f"clip/{index:02d}": random.normal(size=(40 + 60 * index, FRAME_SIZE)).astype(np.float16)
        for index in range(12)
    }


@pytest.fixture
def write(
    tmp_path: Path, info: StoreInfo, steps: Quantization | None
) -> Callable[..., FeatureStore]:
    """`write(clips)` adds one part to the cache and opens the store."""

    def add(
        clips: dict[str, np.ndarray], digest: int = 0, shard_bytes: int = SHARD_BYTES
    ) -> FeatureStore:
        with StoreWriter(tmp_path, replace(info, shard_bytes=shard_bytes), steps) as writer:
            for key, frames in clips.items():
                writer.add(key, np.full(32, digest, np.uint8), frames)
        return FeatureStore(writer.path)

    return add


@pytest.fixture
def write_other_scale(info: StoreInfo, steps: Quantization | None) -> Callable[[Path], Path]:
    """`write_other_scale(cache)` adds a part with clip `x` and twice the scale to an int8 store.

    It returns the store's folder.
    """

    def add(cache: Path) -> Path:
        assert steps is not None, "for int8 stores: parametrize `info`"
        with StoreWriter(cache, info, replace(steps, scale=2 * steps.scale)) as writer:
            writer.add("x", np.zeros(32, np.uint8), np.zeros((100, FRAME_SIZE), np.int8))
        return writer.path

    return add


@pytest.fixture
def compress() -> Callable[[FeatureStore], None]:
    """`compress(store)` stores its frames as another program might, without shards."""

    def rewrite(store: FeatureStore) -> None:
        path = store.parts[0].path / "frames"
        frames = zarr.open_array(str(path), mode="r")[:]
        shutil.rmtree(path)
        zarr.create_array(str(path), data=frames, chunks=(100, 8))

    return rewrite


# Root may read and write everything, so it becomes another user; `..` avoids the parent's mode.
AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from rellm_cache.errors import RellmError
from rellm_cache.utils.console import silent
from rellm_cache.store.maintenance.compact import compact_store
from rellm_cache.store.reader import FeatureStore
from rellm_cache.store.maintenance.verify import check_store
path = Path(sys.argv[1])
if os.getuid() == 0:
    os.chdir(path)
    os.setuid(65534)
    path = Path("../" + path.name)
try:
    {work}
except (RellmError, OSError) as error:
    print(error)
"""


@pytest.fixture
def as_another_user() -> Callable[[Path, str], str]:
    """`as_another_user(store, "compact_store(path, silent)")` returns the error it prints."""

    def run(store: Path, work: str) -> str:
        script = AS_ANOTHER_USER.format(work=work)
        done = subprocess.run(
            [sys.executable, "-c", script, str(store)], capture_output=True, text=True, check=True
        )
        return done.stdout

    return run


@pytest.fixture
def content() -> Callable[[Path], dict[str, tuple[bytes, bytes]]]:
    """`content(store)` returns id → checked frames and digest, as a reader sees them."""

    def read(path: Path) -> dict[str, tuple[bytes, bytes]]:
        store = FeatureStore(path)
        return {
            key: (store.verified_frames(key).tobytes(), store.audio_sha256(key))
            for key in store.ids
        }

    return read
