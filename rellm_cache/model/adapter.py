"""Adapters: networks that map frames of frozen encoders to a shorter sequence of LLM embeddings.

`ConvAdapter` is the paper's: three convolutions (kernel 5, stride 2, padding 2) with gated linear
units, then a residual bottleneck. Frames beyond an utterance's length are set to zero before every
convolution, so that an utterance gives the same output alone and in any batch. (The reference code
convolves over the padding.)

Letters: B utterances, T frames, D values in a frame of all streams, T' = about T / 8, H outputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rellm_cache.config.schema import AdapterConfig
from rellm_cache.data.streams import QuantizationParams
from rellm_cache.llm.memory import count_saved_bytes
from rellm_cache.model.pooling import valid_frames

KERNEL, STRIDE, PADDING = 5, 2, 2
CONVOLUTIONS = 3
COUNTED_FRAMES = 256  # length of the utterance used to count an adapter's cost


@dataclass(frozen=True)
class Speech:
    """Adapter embeddings (B, T', H) float32 of a batch, and how many are valid: (B,) int64."""

    embeddings: Tensor
    lengths: Tensor

    @cached_property
    def counts(self) -> list[int]:
        """The lengths on the host, copied from a GPU once and not for each utterance."""
        counts: list[int] = self.lengths.tolist()
        return counts

    def one(self, index: int) -> Tensor:
        """(t, H) valid embeddings of one utterance."""
        return self.embeddings[index, : self.counts[index]]


def concat_streams(
    streams: Mapping[str, Tensor], lengths: Tensor, pooling: Mapping[str, str]
) -> Tensor:
    """Concatenate streams frame by frame -> (B, T, sum of D), float32.

    Args:
        streams: by name, (B, T, D), or (B, 1, D) if pooled.
        lengths: (B,) valid frames.
        pooling: one value for each stream, in the order of concatenation: `frame` (paper), or
            `utterance`: the mean of the utterance, repeated in every frame (reference code).

    Raises:
        ValueError: a stream is not pooled as `pooling` says.
    """
    if "frame" in pooling.values():
        frames = max(streams[name].shape[1] for name in pooling)
    else:
        frames = int(lengths.max())
    parts = []
    for name, kind in pooling.items():
        stream = streams[name].float()
        if stream.shape[1] != (1 if kind == "utterance" else frames):
            raise ValueError(
                f"stream {name!r}: {stream.shape[1]} frames of {frames}, pooling {kind!r}; collate "
                "batches from streams opened with the recipe's encoders"
            )
        parts.append(stream.expand(-1, frames, -1))  # (B, 1 or T, D) -> (B, T, D)
    return torch.cat(parts, dim=-1)


def dequantize(frames: Tensor, params: QuantizationParams | None) -> Tensor:
    """Convert int8 frames to float32 values, (B, T, D); other frames stay unchanged.

    Padding becomes the mean frame; the adapter masks it.
    """
    return frames if params is None else torch.addcmul(params.mean, frames.float(), params.scale)


def mask_frames(frames: Tensor, lengths: Tensor) -> Tensor:
    """Zero the frames beyond each length: (B, T, D), (B,) -> (B, T, D)."""
    return frames * valid_frames(lengths, frames.shape[1]).unsqueeze(-1)


def crop_time(frames: Tensor, start: Tensor, count: int) -> Tensor:
    """Crop each utterance to `count` frames from `start` on.

    Past the last frame of the batch, that one is repeated: (B, T, D), (B,) -> (B, t, D), where t is
    `count`, or T if that is smaller.
    """
    steps = torch.arange(min(count, frames.shape[1]), device=frames.device)
    places = (start.unsqueeze(1) + steps).clamp(max=frames.shape[1] - 1)  # (B, count)
    rows = torch.arange(len(frames), device=frames.device).unsqueeze(1)  # (B, 1)
    return frames[rows, places]


@dataclass(frozen=True)
class AdapterCost:
    """Memory and computation that training an adapter needs.

    Attributes:
        kept_bytes: bytes of activations that one entering frame keeps for the backward pass.
        operations: floating-point operations of one entering frame, forward and backward.
    """

    parameters: int
    kept_bytes: float
    operations: float


class Adapter(nn.Module):
    """Base class of adapters: frames of all streams (B, T, D) to LLM embeddings (B, T', H).

    A subclass defines `__init__(options, input_size, output_size)`, `forward` and `output_lengths`,
    and gives an utterance the same embeddings alone and in any batch. If `needs_statistics` is
    true, training calls `start_from`. Nothing else of it is used elsewhere.

    Args:
        options: dataclass that the adapter was registered with, or the recipe's `AdapterConfig`.
        input_size: D.
        output_size: H.
    """

    needs_statistics = False

    def __init__(self, options: Any, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = output_size

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and how many of them are valid: (B, T, D), (B,) -> (B, T', H), (B,)."""
        raise NotImplementedError  # abstract: every adapter defines it

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Number of embeddings for each number of frames, in the current mode: (B,) -> (B,)."""
        raise NotImplementedError  # abstract, too

    def input_lengths(self, lengths: Tensor) -> Tensor:
        """Number of frames that enter the network, in the current mode: (B,) -> (B,); all here."""
        return lengths

    def crop(
        self, streams: Mapping[str, Tensor], lengths: Tensor
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """The part of each utterance that enters the network: all of it here.

        Args:
            streams: by name, (B, T, D) frames as stored; without streams that are pooled.
            lengths: (B,) valid frames.

        Returns:
            The streams with their part of the frames, and its `input_lengths`.
        """
        return streams, lengths

    def start_from(self, mean: Tensor, deviation: Tensor) -> None:
        """Set initial weights from the mean and standard deviation (D,) of the training frames."""

    @property
    def operations(self) -> float:
        """Floating-point operations of one frame in a step; by default 6 for each weight."""
        return 6 * sum(p.numel() for p in self.parameters())

    def cost(self) -> AdapterCost:
        """Cost of training, counted without data; the adapter must be on the meta device."""
        frames = torch.empty(1, COUNTED_FRAMES, self.input_size, device="meta")
        with count_saved_bytes(self) as kept:
            self(frames, torch.empty(1, dtype=torch.long, device="meta"))
        parameters = sum(p.numel() for p in self.parameters())
        return AdapterCost(parameters, kept() / COUNTED_FRAMES, self.operations)


class GatedConv(nn.Module):
    """Conv1d to twice the channels, then a gated linear unit. It halves the number of frames.

    `separable` splits it into one filter per channel and a 1x1 convolution over channels (a fifth
    of the parameters).
    """

    def __init__(self, inputs: int, outputs: int, separable: bool = False) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv1d(inputs, 2 * outputs, KERNEL, STRIDE, PADDING)
        if separable:
            self.conv = nn.Sequential(
                nn.Conv1d(inputs, inputs, KERNEL, STRIDE, PADDING, groups=inputs),
                nn.Conv1d(inputs, 2 * outputs, 1),
            )

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Masked frames to masked frames: (B, T, inputs), (B,) -> (B, T/2, outputs), (B,)."""
        gated = F.glu(self.conv(frames.transpose(1, 2)), dim=1)  # (B, 2 D', T/2) -> (B, D', T/2)
        lengths = (lengths - 1) // STRIDE + 1
        return mask_frames(gated.transpose(1, 2), lengths), lengths


class ConvAdapter(Adapter):
    """Three gated convolutions, which divide the number of frames by 8, and a residual bottleneck.

    Presets:
        reference: convolutions as wide as the input, the last as wide as the LLM, as in the
            reference code.
        lite: normalized input, separable convolutions of `width`, and a low-rank skip connection
            around them for the mean of every eight frames.
    """

    def __init__(self, config: AdapterConfig, input_size: int, output_size: int) -> None:
        super().__init__(config, input_size, output_size)
        lite = config.preset == "lite"
        width = config.width if lite else input_size
        # Checkpoints use the module names as tensor names: do not rename modules.
        self.scale = InputNorm(input_size) if lite else None
        self.straight = LowRankSkip(input_size, output_size, config) if lite else None
        self.needs_statistics = lite
        self.convs = nn.ModuleList(
            [
                GatedConv(input_size, width, lite),
                GatedConv(width, width, lite),
                GatedConv(width, output_size, lite),
            ]
        )
        self.fc1 = nn.Linear(output_size, config.bottleneck, bias=False)
        self.fc2 = nn.Linear(config.bottleneck, output_size, bias=False)
        self.norm = nn.LayerNorm(output_size, eps=1e-5)
        self.crop_frames = config.crop_frames
        self.channel_dropout = nn.Dropout1d(config.channel_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Apply floor((L - 1) / 2 + 1) three times, in training to the cropped L: (B,) -> (B,)."""
        lengths = self.input_lengths(lengths)
        for _ in range(CONVOLUTIONS):
            lengths = (lengths - 1) // STRIDE + 1
        return lengths

    def input_lengths(self, lengths: Tensor) -> Tensor:
        """In training at most `crop_frames` enter: (B,) -> (B,)."""
        return (
            lengths.clamp(max=self.crop_frames) if self.training and self.crop_frames else lengths
        )

    def crop(
        self, streams: Mapping[str, Tensor], lengths: Tensor
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """In training a random run of at most `crop_frames` valid frames of each utterance.

        It is drawn from torch's global generator, the same in all streams.
        """
        if not (self.training and self.crop_frames):
            return streams, lengths
        kept = self.input_lengths(lengths)  # (B,)
        start = (torch.rand(len(lengths), device=lengths.device) * (lengths - kept + 1)).long()
        cropped = {n: crop_time(frames, start, self.crop_frames) for n, frames in streams.items()}
        return cropped, kept

    def start_from(self, mean: Tensor, deviation: Tensor) -> None:
        """Normalize the input by the mean and standard deviation (D,) of the training frames."""
        if self.scale is not None:
            self.scale.start_from(mean, deviation)

    @property
    def operations(self) -> float:
        """Operations of one frame: a convolution takes 6 for each weight and output frame."""
        weights = (
            p.numel() / STRIDE ** (index + 1)
            for index, conv in enumerate(self.convs)
            for p in conv.parameters()
        )
        return 6 * float(sum(weights))

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings and how many of them are valid: (B, T, D), (B,) -> (B, T', H), (B,)."""
        if self.scale is not None:
            frames = self.scale(frames)
        # Dropout1d zeroes whole channels of an utterance: (B, T, D) -> (B, D, T) -> (B, T, D)
        frames = self.channel_dropout(frames.transpose(1, 2)).transpose(1, 2)
        frames = mask_frames(frames, lengths)
        straight = None
        if self.straight is not None:
            straight = self.straight(frames, lengths)  # (B, T', H)
        for index, conv in enumerate(self.convs):
            frames, lengths = conv(frames, lengths)  # (B, T, .) -> (B, T/2, .)
            if index < CONVOLUTIONS - 1:
                frames = self.dropout(frames)
        if straight is not None:
            frames = frames + straight
        frames = frames + self.fc2(F.gelu(self.fc1(frames)))
        return mask_frames(self.norm(frames), lengths), lengths


class LowRankSkip(nn.Module):
    """Skip connection around the convolutions: the mean of every eight frames, at low rank.

    It gives the adapter, from the first steps, the information of a linear probe on mean frames.
    """

    def __init__(self, inputs: int, outputs: int, config: AdapterConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.down = nn.Linear(inputs, config.bottleneck, bias=False)
        self.up = nn.Linear(config.bottleneck, outputs, bias=False)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Means of valid frames, mapped: (B, T, inputs), (B,) -> (B, ceil(T / 8), outputs)."""
        stride = STRIDE**CONVOLUTIONS
        padding = -frames.shape[1] % stride
        padded = F.pad(frames, (0, 0, 0, padding))
        groups = padded.reshape(len(padded), -1, stride, padded.shape[2])  # (B, T', stride, D)
        sums = groups.sum(2)  # (B, T', D)
        starts = stride * torch.arange(sums.shape[1], device=frames.device)  # (T',)
        counts = (lengths.unsqueeze(1) - starts).clamp(1, stride)  # (B, T')
        means = self.dropout(sums / counts.unsqueeze(-1))
        mapped: Tensor = self.up(self.down(means))  # (B, T', D) -> (B, T', outputs)
        return mapped


class InputNorm(nn.Module):
    """Trained scale and shift of each input channel, initialized from the training frames.

    Channels of frozen encoders differ in scale by two orders of magnitude. After normalization all
    channels enter the first layer with unit variance.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    @torch.no_grad()
    def start_from(self, mean: Tensor, deviation: Tensor) -> None:
        """Set scale and shift to normalize frames of this mean and deviation (D,)."""
        self.weight.copy_(1 / deviation.clamp(min=1e-3))
        self.bias.copy_(-mean * self.weight)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return frames * self.weight + self.bias
