"""Q-Former: learned queries attend to the frames; a fixed number of outputs.

Letters: B utterances, T frames, D their size, Q queries, W width, H outputs.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

import rellm_cache as rellm
from rellm_cache.config.constraints import Range


@dataclass(frozen=True)
class QFormerOptions:
    """Options of the adapter."""

    queries: Annotated[int, Range(1)] = 4
    """Learned queries: the embeddings of an utterance, whatever its length."""
    width: int = 32
    """Width of the attention."""
    dropout: Annotated[float, Range(0, below=1)] = 0.1
    """Dropout on the frames."""


@rellm.register_adapter("qformer", options=QFormerOptions)
class QFormer(rellm.Adapter):
    """One layer of attention from learned queries to the frames."""

    needs_statistics = True

    def __init__(self, options: QFormerOptions, input_size: int, output_size: int) -> None:
        super().__init__(options, input_size, output_size)
        self.queries = nn.Parameter(0.5 * torch.randn(options.queries, options.width))
        self.down = nn.Linear(input_size, options.width)
        self.attention = nn.MultiheadAttention(options.width, 4, batch_first=True)
        self.dropout = nn.Dropout(options.dropout)
        self.up = nn.Linear(options.width, output_size)

    def start_from(self, mean: Tensor, deviation: Tensor) -> None:
        """Let the first layer see frames of mean 0 and deviation 1."""
        with torch.no_grad():
            self.down.weight /= deviation.clamp(min=1e-3)
            self.down.bias -= self.down.weight @ mean

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return torch.full_like(lengths, len(self.queries))

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        padding = torch.arange(frames.shape[1], device=lengths.device) >= lengths[:, None]  # (B, T)
        keys = self.dropout(self.down(frames))  # (B, T, D) -> (B, T, W)
        queries = self.queries.expand(len(frames), -1, -1)  # (B, Q, W)
        found, _ = self.attention(queries, keys, keys, padding, need_weights=False)  # (B, Q, W)
        return self.up(found + queries), self.output_lengths(lengths)  # (B, Q, H)
