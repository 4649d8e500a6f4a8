"""Statistics adapter: mean and deviation of an utterance's frames over time, then a linear layer.

Time is gone before the first trained layer, so a step costs one product for an utterance, not one
for a frame. An utterance becomes one embedding. That suits recognition; a response of an LLM needs
the words, and the convolutions of `conv`.

Letters: B utterances, T frames, D values in a frame of all streams, H outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rellm_cache.config.adapter_options import StatisticsOptions
from rellm_cache.model.adapter import Adapter, InputNorm
from rellm_cache.model.pooling import valid_frames

# Spread over utterances of the mean and the deviation of standardized frames: medians over layers
# 1 to 4 of Whisper tiny.en and prosody, 1,200 clips of RAVDESS.
MEAN_SPREAD, DEVIATION_SPREAD = 0.2, 0.1
LIMIT = 6.0  # maximum |x| of scaled statistics


class StatisticsAdapter(Adapter):
    """Utterance statistics, a linear layer, a layer norm and GELU: (B, T, D) -> (B, 1, H).

    Example:
        >>> import torch
        >>> from rellm_cache.config.adapter_options import StatisticsOptions
        >>> from rellm_cache.model.statistics_adapter import StatisticsAdapter
        >>> adapter = StatisticsAdapter(StatisticsOptions(), input_size=8, output_size=4)
        >>> embeddings, counts = adapter(torch.randn(2, 50, 8), torch.tensor([50, 37]))
        >>> embeddings.shape, counts.tolist()
        (torch.Size([2, 1, 4]), [1, 1])
    """

    needs_statistics = True

    def __init__(self, options: StatisticsOptions, input_size: int, output_size: int) -> None:
        super().__init__(options, input_size, output_size or 2 * input_size + 1)
        # Checkpoints use the module names as tensor names: do not rename modules.
        self.scale = InputNorm(input_size).requires_grad_(False)
        self.dropout = nn.Dropout(options.channel_dropout)
        self.linear = nn.Linear(2 * input_size, output_size) if output_size else None
        self.norm = nn.LayerNorm(output_size) if output_size else None

    def start_from(self, mean: Tensor, deviation: Tensor) -> None:
        """Standardize frames by the mean and deviation (D,) of the training frames, for good."""
        self.scale.start_from(mean, deviation)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """One embedding for each utterance: (B,) -> (B,)."""
        return torch.ones_like(lengths)

    @property
    def operations(self) -> float:
        """Operations of one frame: multiplied and summed, centered, squared, multiplied, summed."""
        return 6 * self.input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and how many are valid, always 1: (B, T, D), (B,) -> (B, 1, H), (B,)."""
        # Statistics first, then their scale: scaled frames would be one more pass over all frames.
        shares = valid_frames(lengths, frames.shape[1]).float() / lengths.unsqueeze(1)  # (B, T)
        mean = torch.bmm(shares.unsqueeze(1), frames)  # (B, 1, T), (B, T, D) -> (B, 1, D)
        squares = (frames - mean).square()
        variance = torch.bmm(shares.unsqueeze(1), squares).squeeze(1)  # (B, D)
        mean = self.scale(mean).squeeze(1)  # (B, D)
        # A finite gradient for the weights of mixed layers, too, where a channel never changes.
        deviation = variance.clamp(min=1e-10).sqrt() * self.scale.weight
        statistics = torch.cat(
            [mean / MEAN_SPREAD, (deviation - 1) / DEVIATION_SPREAD], dim=1
        ).clamp(-LIMIT, LIMIT)  # (B, 2D)
        statistics = self.dropout(statistics)
        if self.linear is None or self.norm is None:
            constant = statistics.new_ones(len(statistics), 1)
            embedding = torch.cat([statistics, constant], dim=1)  # (B, 2D + 1)
        else:
            embedding = F.gelu(self.norm(self.linear(statistics)))  # (B, H)
        return embedding.unsqueeze(1), self.output_lengths(lengths)
