"""The adapter. In: the two streams of frames. Out: a few LLM embeddings for each utterance.

Three convolutions (kernel 5, stride 2, padding 2) with gated linear units shorten time eightfold, a
residual bottleneck follows. Frames beyond an utterance's length are zero before every convolution,
as its own padding would be: alone or in any batch it gives the same output. (The reference code
convolves over its neighbours' padding.)

Letters: B utterances, T frames, D values in a fused frame, T' = about T / 8, H output size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rellm_cache.config import AdapterConfig
from rellm_cache.model.heads import masked_mean, valid_frames

KERNEL, STRIDE, PADDING = 5, 2, 2
CONVOLUTIONS = 3


def fuse(speech: Tensor, emotion: Tensor | None, lengths: Tensor, pooling: str) -> Tensor:
    """Concatenate the streams per frame: (B, T, D_s), (B, T, D_e) -> (B, T, D_s + D_e), float32.

    Args:
        lengths: (B,) valid frames.
        pooling: `frame` (the paper's words) or `utterance`, the mean of the emotion stream repeated
            over every frame (the reference code).
    """
    speech = speech.float()
    if emotion is None:
        return speech
    emotion = emotion.float()
    if pooling == "utterance":
        emotion = masked_mean(emotion, lengths).unsqueeze(1).expand(-1, speech.shape[1], -1)
    return torch.cat([speech, emotion], dim=-1)


def output_lengths(lengths: Tensor) -> Tensor:
    """Adapter frames of so many input frames: three times floor((L - 1) / 2 + 1)."""
    for _ in range(CONVOLUTIONS):
        lengths = (lengths - 1) // STRIDE + 1
    return lengths


def mask_frames(frames: Tensor, lengths: Tensor) -> Tensor:
    """Zero the frames beyond each length: (B, T, D), (B,) -> (B, T, D)."""
    return frames * valid_frames(lengths, frames.shape[1]).unsqueeze(-1)


class GatedConv(nn.Module):
    """Masked Conv1d to twice the channels, then a gated linear unit: half the frames."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, 2 * outputs, KERNEL, STRIDE, PADDING)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, inputs), (B,) -> (B, T/2, outputs), (B,)."""
        masked = mask_frames(frames, lengths).transpose(1, 2)  # (B, T, D) -> (B, D, T)
        gated = F.glu(self.conv(masked), dim=1)  # (B, 2 D', T/2) -> (B, D', T/2)
        return gated.transpose(1, 2), (lengths - 1) // STRIDE + 1


class Adapter(nn.Module):
    """Frames (B, T, D) to LLM embeddings (B, T', H).

    `reference` keeps the reference's widths: convolutions as wide as the input, the last as wide as
    the LLM (205 M parameters for 2304 → 4096). `lite` scales and projects the input to
    `width` first and widens at the last convolution.
    """

    def __init__(self, config: AdapterConfig, input_size: int, output_size: int) -> None:
        super().__init__()
        self.scale: InputScale | None = None
        self.project: nn.Linear | None = None
        width = input_size
        if config.preset == "lite":
            width = config.width
            self.scale = InputScale(input_size)
            self.project = nn.Linear(input_size, width)
        self.convs = nn.ModuleList(
            [GatedConv(width, width), GatedConv(width, width), GatedConv(width, output_size)]
        )
        self.fc1 = nn.Linear(output_size, config.bottleneck, bias=False)
        self.fc2 = nn.Linear(config.bottleneck, output_size, bias=False)
        self.norm = nn.LayerNorm(output_size, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and how many of them are valid: (B, T, D), (B,) -> (B, T', H), (B,)."""
        if self.scale is not None and self.project is not None:
            frames = self.dropout(self.project(self.scale(frames)))  # (B, T, D) -> (B, T, width)
        for index, conv in enumerate(self.convs):
            frames, lengths = conv(frames, lengths)  # (B, T, .) -> (B, T/2, .)
            if index < CONVOLUTIONS - 1:
                frames = self.dropout(frames)
        frames = frames + self.fc2(F.gelu(self.fc1(frames)))
        return mask_frames(self.norm(frames), lengths), lengths


class InputScale(nn.Module):
    """A trained scale and shift of each input channel, started from the training data.

    Channels of frozen encoders differ in scale by two orders of magnitude; started at the
    training set's deviation and mean, all enter the first layer at unit variance.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def start_from(self, mean: Tensor, deviation: Tensor) -> None:
        """Set scale and shift so that frames of this mean and deviation (D,) become standard."""
        self.weight.copy_(1 / deviation.clamp(min=1e-3))
        self.bias.copy_(-mean * self.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return frames * self.weight + self.bias
