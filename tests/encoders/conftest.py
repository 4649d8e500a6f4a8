"""Clips of different lengths for one batch."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def waveforms() -> list[np.ndarray]:
    """Four noises (S,) float32 of 1 to 3 s at 16 kHz, of awkward lengths and a small offset."""
    random = np.random.default_rng(1)
    return [
        random.normal(0.05, 0.1, samples).astype(np.float32)
        for samples in (16_000, 16_161, 25_600, 47_999)
    ]
