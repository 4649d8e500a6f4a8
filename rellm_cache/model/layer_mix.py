"""Layer mixing: several layers of one frozen encoder become the frames of one stream.

Softmax mixes L layers into one with learned weights, as the weighted sum of SUPERB (Yang et al.,
"SUPERB: Speech processing Universal PERformance Benchmark", 2021) and ELMo (Peters et al., 2018).
Without it layers stay side by side. Each layer's frames may be normalized first: most encoders have
larger values in deeper layers, and then a weight alone does not tell a layer's share.

Letters: B utterances, T frames, L layers, D values in a frame of one layer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rellm_cache.config.schema import AdapterConfig, EncoderConfig
from rellm_cache.data.streams import QuantizationParams
from rellm_cache.model.adapter import dequantize

SUFFIX = "_layers"  # of a stream's name in the names of tensors


class LayerMix(nn.Module):
    """Mix of the layers of one stream: frames (B, T, L · D), layer after layer.

    Args:
        layers: L.
        size: values of all layers of a frame, L · D.
        softmax: whether the layers are summed with learned weights, equal at first; without it they
            stay side by side.
        layer_norm: whether each layer of a frame is normalized to mean 0 and variance 1.

    Attributes:
        output_size: D, or L · D side by side.

    Raises:
        ValueError: `size` is no multiple of `layers`.

    Example:
        >>> import torch
        >>> from rellm_cache.model.layer_mix import LayerMix
        >>> mix = LayerMix(layers=4, size=12, softmax=True, layer_norm=True)
        >>> mix(torch.randn(2, 5, 12)).shape, mix.layer_weights.tolist()
        (torch.Size([2, 5, 3]), [0.25, 0.25, 0.25, 0.25])
    """

    def __init__(self, layers: int, size: int, *, softmax: bool, layer_norm: bool) -> None:
        super().__init__()
        if size % layers:
            raise ValueError(f"{size} values in a frame: expected a multiple of {layers} layers")
        self.layers, self.size, self.layer_norm = layers, size // layers, layer_norm
        # Checkpoints use this name: do not rename it.
        self.weights = nn.Parameter(torch.zeros(layers)) if softmax else None
        self.output_size = self.size if softmax else size

    @property
    def layer_weights(self) -> Tensor:
        """(L,) float32 weights of sum 1; of layers side by side all are 1."""
        if self.weights is None:
            return torch.ones(self.layers)
        return self.weights.float().softmax(0)

    @property
    def operations(self) -> float:
        """Floating-point operations of one frame in a step: two a value, forward and backward."""
        return 0.0 if self.weights is None else 4.0 * self.layers * self.size

    def forward(self, frames: Tensor, params: QuantizationParams | None = None) -> Tensor:
        """Mixed frames: (B, T, L · D) as stored -> (B, T, `output_size`) float32.

        Args:
            params: scale and mean (L · D,) of int8 frames.
        """

        def read(clip: Tensor) -> Tensor:
            values = dequantize(clip, params).float()  # (…, L · D)
            layers = values.reshape(*values.shape[:-1], self.layers, self.size)  # (…, L, D)
            return F.layer_norm(layers, (self.size,)) if self.layer_norm else layers

        if self.weights is None:
            return read(frames).flatten(2)  # (B, T, L, D) -> (B, T, L · D)
        with torch.autocast(frames.device.type, enabled=False):  # not rounded to bf16
            mixed: Tensor = _WeightedSum.apply(frames, self.layer_weights, read)  # type: ignore[no-untyped-call]  # torch's apply is untyped
        return mixed


class _WeightedSum(torch.autograd.Function):
    """Weighted sum of layers that keeps the frames as stored, and no float32 copy of all layers.

    One utterance is converted at a time, forward and backward. Gradients reach the weights only:
    frames come from the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, stored: Tensor, weights: Tensor, read: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(stored)
        ctx.read = read
        # (L,) times (T, L, D) of each utterance -> (T, D)
        return torch.stack([weights @ read(clip) for clip in stored])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (stored,) = ctx.saved_tensors
        products = [
            (ctx.read(clip) @ own.unsqueeze(-1)).sum((0, 2))  # (T, L, D) (T, D, 1) -> (L,)
            for clip, own in zip(stored, gradient, strict=True)
        ]
        return None, torch.stack(products).sum(0), None


class LayerMixes(nn.ModuleDict):
    """The `LayerMix` of each stream with several layers that are mixed or normalized.

    Args:
        config: the recipe's `[adapter]`.
        sizes: values in a stored frame of each stream.

    Attributes:
        sizes: values in a mixed frame of each stream.
        operations: floating-point operations of one frame of all streams in a step.
        kept_bytes: bytes that one frame of all streams keeps for the backward pass.
    """

    def __init__(
        self,
        config: AdapterConfig,
        encoders: Mapping[str, EncoderConfig],
        sizes: Mapping[str, int],
    ) -> None:
        softmax, layer_norm = config.layer_mix == "softmax", config.layer_norm
        mixes = {
            name: LayerMix(
                len(encoder.layer_numbers), sizes[name], softmax=softmax, layer_norm=layer_norm
            )
            for name, encoder in encoders.items()
            if encoder.layer_numbers and (softmax or layer_norm)
        }
        super().__init__({f"{name}{SUFFIX}": mix for name, mix in mixes.items()})
        self._stored_sizes = dict(sizes)
        self.sizes = self._stored_sizes | {name: mix.output_size for name, mix in mixes.items()}
        self.operations = float(sum(mix.operations for mix in mixes.values()))
        value_bytes = {name: 1 if e.dtype == "int8" else 2 for name, e in encoders.items()}
        self.kept_bytes = sum(sizes[n] * value_bytes[n] for n in mixes) if softmax else 0

    def mix(self, stream: str, frames: Tensor, params: QuantizationParams | None = None) -> Tensor:
        """Frames of a stream as its values: those of several layers mixed, others dequantized."""
        if (name := f"{stream}{SUFFIX}") not in self:
            return dequantize(frames, params)
        mixed: Tensor = self[name](frames, params)
        return mixed

    def mix_values(self, values: Tensor) -> Tensor:
        """Mix the values of all streams side by side: (T, sum of D) -> (T, sum of mixed D)."""
        parts = torch.split(values, [*self._stored_sizes.values()], dim=1)
        mixed = [
            self.mix(stream, own.unsqueeze(0)).squeeze(0).to(values.dtype)
            for stream, own in zip(self._stored_sizes, parts, strict=True)
        ]
        return torch.cat(mixed, dim=1)
