"""Pooling over time: one vector for each utterance from its frames.

Mean, mean and standard deviation (statistics), or either of them weighted by learned attention. A
linear projection of each frame may come first, so that deviations are those of projected frames.
Frames beyond an utterance's length never count: an utterance gives the same vector alone and in any
batch.

Letters: B utterances, T frames, D values in a frame, P values of the pooled vector.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PoolingKind = Literal["mean", "statistics", "attention", "attentive_statistics"]
ATTENTION_SIZE = 64  # hidden units that score a frame in attentive statistics
VARIANCE_FLOOR = 1e-5  # keeps the gradient of the deviation of equal frames finite


def valid_frames(lengths: Tensor, total: int) -> Tensor:
    """(B, total) bool mask, true for the valid frames of each utterance."""
    return torch.arange(total, device=lengths.device) < lengths.unsqueeze(1)


def masked_mean(frames: Tensor, lengths: Tensor) -> Tensor:
    """Mean over valid frames: (B, T, D), (B,) -> (B, D)."""
    mask = valid_frames(lengths, frames.shape[1]).unsqueeze(-1)  # (B, T, 1)
    return (frames * mask).sum(1) / lengths.unsqueeze(1)


def weighted_mean(frames: Tensor, weights: Tensor) -> Tensor:
    """Mean over frames with weights of sum 1: (B, T, D), (B, T) -> (B, D).

    No matrix product, which autocast would round to bf16.
    """
    return (frames * weights.unsqueeze(-1)).sum(1)


class FrameAttention(nn.Module):
    """Attention weights of frames: the softmax of their scores, over valid frames.

    The score of a frame is its dot product with one learned query, divided by the square root of
    its size; with `hidden` units, of `tanh(W frame + b)` with the query (Okabe et al., "Attentive
    statistics pooling for deep speaker embedding", 2018). The query starts at zero, so that at
    first all frames have the same weight.
    """

    def __init__(self, size: int, hidden: int = 0) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, hidden) if hidden else None
        self.query = nn.Parameter(torch.zeros(hidden or size))

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Weights (B, T) float32 of frames (B, T, D); zero beyond each length (B,)."""
        keys = frames if self.hidden is None else self.hidden(frames).tanh()  # (B, T, D or hidden)
        scores = (keys @ self.query).float() / len(self.query) ** 0.5  # (B, T)
        outside = ~valid_frames(lengths, frames.shape[1])
        weights: Tensor = scores.masked_fill(outside, -torch.inf).softmax(dim=1)
        return weights


class Pooling(nn.Module):
    """Pooling of frames (B, T, D) to vectors (B, P).

    Args:
        kind: `mean` of the valid frames; `statistics`: mean and standard deviation; `attention`:
            their mean with learned weights; `attentive_statistics`: mean and standard deviation
            with learned weights.
        size: D.
        projection: size of a linear layer with GELU on each frame before pooling; 0 for none.

    Attributes:
        output_size: P: D or the size of the projection, twice that with deviations.

    Example:
        >>> import torch
        >>> from rellm_cache.model.pooling import Pooling
        >>> pooling = Pooling("attentive_statistics", size=6, projection=4)
        >>> pooling(torch.randn(2, 9, 6), torch.tensor([9, 5])).shape
        torch.Size([2, 8])
    """

    def __init__(self, kind: PoolingKind, size: int, projection: int = 0) -> None:
        super().__init__()
        # Checkpoints use the module names as tensor names: do not rename modules.
        self.projection = nn.Linear(size, projection) if projection else None
        size = projection or size
        self.has_deviation = kind in ("statistics", "attentive_statistics")
        self.attention: FrameAttention | None = None
        if kind in ("attention", "attentive_statistics"):
            self.attention = FrameAttention(size, ATTENTION_SIZE if self.has_deviation else 0)
        self.output_size = size * (2 if self.has_deviation else 1)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) float32 frames, (B,) valid frames -> (B, P) float32."""
        if self.projection is not None:
            frames = F.gelu(self.projection(frames)).float()
        weights = None if self.attention is None else self.attention(frames, lengths)

        def average(values: Tensor) -> Tensor:
            return (
                masked_mean(values, lengths) if weights is None else weighted_mean(values, weights)
            )

        pooled = average(frames)  # (B, T, D) -> (B, D)
        if self.has_deviation:
            variance = average((frames - pooled.unsqueeze(1)).square())
            pooled = torch.cat([pooled, (variance + VARIANCE_FLOOR).sqrt()], dim=1)  # (B, 2D)
        return pooled
