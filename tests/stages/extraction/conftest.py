"""Undisturbed results to compare with, and the checksums of a store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rellm_cache.config import Recipe
from rellm_cache.stages.extract import extract
from rellm_cache.store.reader import FeatureStore

Checksums = Callable[[Path], dict[str, int]]


@pytest.fixture(scope="session")
def checksums() -> Checksums:
    """`checksums(store)`: id → checksum of its frames, compared with the frames themselves."""

    def read(path: Path) -> dict[str, int]:
        store = FeatureStore(path)
        found: dict[str, int] = {}
        for part in store.parts:
            found.update(zip(part.ids, part.frames_crc32c.tolist(), strict=True))
        for key in store.ids:
            store.verified_frames(key)
        return found

    return read


@pytest.fixture
def undisturbed(
    corpus: Path, speech_recipe: Recipe, tmp_path: Path, checksums: Checksums
) -> dict[str, int]:
    """What one process makes of the corpus, a clip at a time."""
    (report,) = extract(corpus, speech_recipe, tmp_path / "undisturbed", batch_size=1)
    return checksums(report.path)
