"""Auxiliary heads: emotion logits and dimensions of each utterance from adapter frames.

Letters: B utterances, T' adapter frames, H their size, C emotions.
"""

import torch
from torch import Tensor, nn

from rellm_cache.config.schema import HeadsConfig


def masked_mean(frames: Tensor, lengths: Tensor) -> Tensor:
    """Mean over valid frames: (B, T, D), (B,) -> (B, D)."""
    mask = valid_frames(lengths, frames.shape[1]).unsqueeze(-1)  # (B, T, 1)
    return (frames * mask).sum(1) / lengths.unsqueeze(1)


def valid_frames(lengths: Tensor, total: int) -> Tensor:
    """(B, total) bool mask, true for the valid frames of each utterance."""
    return torch.arange(total, device=lengths.device) < lengths.unsqueeze(1)


class AuxiliaryHeads(nn.Module):
    """Emotion category and dimensions from pooled adapter frames (paper; reference code's sizes).

    `pooling = "mean"` is the paper's mean; `"statistics"` adds the standard deviation over time.
    """

    def __init__(self, config: HeadsConfig, hidden_size: int) -> None:
        super().__init__()
        self.pooling = config.pooling
        pooled = hidden_size * (2 if config.pooling == "statistics" else 1)
        self.dropout = nn.Dropout(config.dropout)
        self.category = nn.Linear(pooled, len(config.emotions), bias=False)
        self.dimensions = nn.Linear(pooled, 3, bias=False) if config.dimensions else None
        parts = {"emotion": self.category, "dimensions": self.dimensions}
        for name in config.freeze:
            if (head := parts[name]) is not None:
                head.requires_grad_(False)

    def pool(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pooled frames: (B, T', H), (B,) valid frames -> (B, P); P is H, or 2 H of statistics."""
        pooled = masked_mean(frames, lengths)  # (B, T', H) -> (B, H)
        if self.pooling == "statistics":
            variance = masked_mean((frames - pooled.unsqueeze(1)).square(), lengths)
            pooled = torch.cat([pooled, (variance + 1e-5).sqrt()], dim=1)  # (B, 2H)
        return pooled

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor | None]:
        """Emotion logits and dimensions.

        Args:
            pooled: (B, P) from `pool`.

        Returns:
            (B, C) logits; (B, 3) arousal, dominance, valence, or None without that head.
        """
        pooled = self.dropout(pooled)
        dimensions = None if self.dimensions is None else self.dimensions(pooled)
        return self.category(pooled), dimensions
