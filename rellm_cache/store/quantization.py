"""Frames in eight bits. In: float16 frames, or their statistics. Out: int8 frames, and back.

Each channel has a scale and a mean, symmetric around the mean: q = round((x - mean) / scale) within
-127..127, and q · scale + mean is the frame again. The scale is the largest distance from the mean
over 127, so that no value of the frames it was made from is clipped: on real encoders clipping the
tails cost more than the finer steps gained (docs/decisions/0031-int8-streams.md).
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

LEVELS = 127


@dataclass(frozen=True, eq=False)
class Quantization:
    """What the int8 values of a stream stand for.

    Attributes:
        scale: (D,) float32, above 0: the width of one step.
        mean: (D,) float32: what 0 stands for.
    """

    scale: NDArray[np.float32]
    mean: NDArray[np.float32]

    def quantize(self, frames: np.ndarray) -> NDArray[np.int8]:
        """(L, D) floats to int8; what lies beyond the steps is clipped."""
        steps = np.rint((frames.astype(np.float32) - self.mean) / self.scale)
        clipped: NDArray[np.int8] = np.clip(steps, -LEVELS, LEVELS).astype(np.int8)
        return clipped

    def dequantize(self, frames: np.ndarray) -> NDArray[np.float32]:
        """(L, D) int8 to the float32 values they stand for."""
        return frames.astype(np.float32) * self.scale + self.mean

    def equals(self, other: Self) -> bool:
        """Whether both read the same values, to the bit."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.mean, other.mean)


@dataclass
class ChannelStatistics:
    """Mean and extremes of each channel, gathered clip by clip.

    Attributes:
        count: frames.
        total: (D,) their sum; empty before the first clip, as are the others.
        low: (D,) the least value of each channel.
        high: (D,) the largest.
    """

    count: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    low: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    high: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, frames: np.ndarray) -> None:
        """Count in (L, D) float16 frames, L > 0."""
        sums = frames.sum(0, dtype=np.float64)
        low, high = frames.min(0).astype(np.float64), frames.max(0).astype(np.float64)
        if self.count:
            sums, low, high = (
                sums + self.total,
                np.minimum(low, self.low),
                np.maximum(high, self.high),
            )
        self.count += len(frames)
        self.total, self.low, self.high = sums, low, high

    def quantization(self) -> Quantization:
        """The steps that hold every value counted."""
        mean = (self.total / self.count).astype(np.float32)
        reach = np.maximum(self.high - mean, mean - self.low)
        scale = (reach / LEVELS).astype(np.float32)
        return Quantization(np.where(scale > 0, scale, np.float32(1)), mean)
