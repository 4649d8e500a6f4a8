"""Quantization of frames to int8, with a scale and a mean for each channel.

q = round((x - mean) / scale) in -127..127, and x ≈ q · scale + mean. The scale is the largest
distance from the mean divided by 127, so no value is clipped: on real encoders, clipping the tails
cost more than the finer steps gained (docs/decisions/0031-int8-streams.md).
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

LEVELS = 127


@dataclass(frozen=True, eq=False)
class Quantization:
    """Scale and mean of the int8 values of a store; of K layers (K, D) in place of (D,)."""

    scale: NDArray[np.float32]  # (D,) float32, above 0: the width of one step
    mean: NDArray[np.float32]  # (D,) float32: the value of q = 0

    def quantize(self, frames: np.ndarray) -> NDArray[np.int8]:
        """Quantize (L, D) or (L, K, D) floats to int8; values out of range are clipped."""
        steps = np.rint((frames.astype(np.float32) - self.mean) / self.scale)
        clipped: NDArray[np.int8] = np.clip(steps, -LEVELS, LEVELS).astype(np.int8)
        return clipped

    def dequantize(self, frames: np.ndarray) -> NDArray[np.float32]:
        """Convert (L, D) or (L, K, D) int8 back to float32."""
        return frames.astype(np.float32) * self.scale + self.mean

    def equals(self, other: Self) -> bool:
        """Return whether scale and mean are equal, bit for bit."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.mean, other.mean)


@dataclass
class ChannelStatistics:
    """Sum and range of each channel of each layer, accumulated clip by clip."""

    count: int = 0  # frames added
    # (D,) sum, smallest and largest value of each channel; empty before the first clip
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    low: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    high: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, frames: np.ndarray) -> None:
        """Add (L, D) or (L, K, D) float16 frames, L > 0."""
        sums = frames.sum(0, dtype=np.float64)
        low, high = frames.min(0).astype(np.float64), frames.max(0).astype(np.float64)
        if self.count:
            sums += self.total
            low, high = np.minimum(low, self.low), np.maximum(high, self.high)
        self.count += len(frames)
        self.total, self.low, self.high = sums, low, high

    def quantization(self) -> Quantization:
        """Return the scale and mean that clip none of the added values."""
        mean = (self.total / self.count).astype(np.float32)
        reach = np.maximum(self.high - mean, mean - self.low)
        scale = (reach / LEVELS).astype(np.float32)
        return Quantization(np.where(scale > 0, scale, np.float32(1)), mean)
