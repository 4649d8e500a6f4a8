"""Auxiliary heads: emotion logits and dimensions of each utterance from adapter frames.

Letters: B utterances, T' adapter frames, H their size, P values of a pooled vector, C emotions.
"""

import torch
from torch import Tensor, nn

from rellm_cache.config.schema import HeadsConfig
from rellm_cache.llm.memory import count_saved_bytes
from rellm_cache.model.pooling import Pooling

COUNTED_FRAMES = 1024  # length of the utterance used to count the memory of pooling


class AuxiliaryHeads(nn.Module):
    """Emotion category and dimensions from pooled adapter frames (paper; reference code's sizes).

    Both heads read the same pooled vector. A frozen head reads what it was trained on, so the
    weights of the pooling are frozen with it.
    """

    def __init__(self, config: HeadsConfig, hidden_size: int) -> None:
        super().__init__()
        # Checkpoints use the module names as tensor names: do not rename modules.
        self.hidden_size = hidden_size
        self.pooling = Pooling(config.pooling, hidden_size, config.projection)
        pooled = self.pooling.output_size
        self.dropout = nn.Dropout(config.dropout)
        self.category = nn.Linear(pooled, len(config.emotions), bias=False)
        self.dimensions = nn.Linear(pooled, 3, bias=False) if config.dimensions else None
        parts = {"emotion": self.category, "dimensions": self.dimensions}
        for name in config.freeze:
            if (head := parts[name]) is not None:
                head.requires_grad_(False)
                self.pooling.requires_grad_(False)

    def pool(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Pooled frames: (B, T', H), (B,) valid frames -> (B, P)."""
        pooled: Tensor = self.pooling(frames, lengths)
        return pooled

    def kept_bytes(self) -> float:
        """Bytes of activations that one adapter frame keeps for the backward pass of the pooling.

        Counted without data; the heads must be on the meta device.
        """
        frames = torch.empty(1, COUNTED_FRAMES, self.hidden_size, device="meta", requires_grad=True)
        with count_saved_bytes(self) as kept:
            self.pool(frames, torch.empty(1, dtype=torch.long, device="meta"))
        return kept() / COUNTED_FRAMES

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
