"""Synthetic features for timing: as large as a real corpus, correlated, with outlier channels.

Two streams of float16 frames, with the sizes of Whisper large (1280) and wav2vec2 large (1024).
Durations are lognormal with a mean of 4.4 s. Frames are cut from one long correlated sequence, so
that creating them takes no part of the measured time.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SIZES = {"speech": 1280, "emotion": 1024}
POOL = 8000  # frames that utterances are cut from; longer ones are cut off there


@dataclass(frozen=True)
class Corpus:
    """So many utterances; the same seed makes the same ones."""

    utterances: int
    seed: int = 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) frames of each utterance."""
        random = np.random.default_rng(self.seed)
        seconds = random.lognormal(np.log(4.4) - 0.5**2 / 2, 0.5, self.utterances)
        return np.clip(seconds * 50, 25, 1500).astype(np.int64)

    @cached_property
    def ids(self) -> list[str]:
        """An id for each utterance."""
        return [f"made/speaker{i % 40:02d}/utterance{i:06d}" for i in range(self.utterances)]

    @cached_property
    def _pools(self) -> dict[str, np.ndarray]:
        random = np.random.default_rng(self.seed + 1)
        pools = {}
        for stream, size in SIZES.items():
            frames = random.normal(size=(POOL, size)).astype(np.float32)
            for index in range(1, POOL):  # neighbouring frames are alike
                frames[index] = 0.9 * frames[index - 1] + 0.436 * frames[index]
            mixing = random.normal(size=(size, 32)).astype(np.float32) / 6
            frames += (frames @ mixing) @ mixing.T  # channels too
            frames[:, random.choice(size, 4, replace=False)] *= 30
            pools[stream] = frames.astype(np.float16)
        return pools

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.random.default_rng(self.seed + 2).integers(0, POOL - self.lengths)

    def frames(self, stream: str, index: int) -> np.ndarray:
        """(L, D) float16 frames of one utterance: a view."""
        start = int(self._starts[index])
        return self._pools[stream][start : start + int(self.lengths[index])]

    @property
    def nbytes(self) -> int:
        """Of both streams."""
        return int(self.lengths.sum()) * sum(SIZES.values()) * 2

    def offsets(self) -> np.ndarray:
        """(N + 1,) first frame of each utterance where all lie end to end."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def batches(self, size: int, seed: int) -> list[list[int]]:
        """Every utterance once, in random batches."""
        order = np.random.default_rng(seed).permutation(self.utterances).tolist()
        return [order[i : i + size] for i in range(0, len(order), size)]
