"""Frame encoder: the base class of all encoders, which turn waveforms into frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import ConfigError
from rellm_cache.utils.json_files import load

Count = TypeVar("Count", int, np.ndarray)
BLOCK_KEYS = ("encoder_layers", "num_hidden_layers")  # of config.json, the first that is there


@dataclass(frozen=True)
class Encoding:
    """Output of an encoder for one clip.

    Attributes:
        frames: (L, D) float32, or (L, K, D) if the spec asks for K layers; the store keeps them as
            float16.
        vad: (3,) float32 arousal, dominance, valence in about 0..1; None without an emotion head.
    """

    frames: np.ndarray
    vad: np.ndarray | None = None


class FrameEncoder(ABC):
    """A frozen encoder. Frames of a clip do not depend on its batch.

    Args:
        spec: settings from the recipe, with the digest of the weights.
        options: dataclass that the encoder was registered with; None without options.
        device: where its model runs. An encoder without a model runs on the CPU.

    Attributes:
        frame_rate: frames a second; 0 where `model_frame_rate` tells it.
        version: of its code; raise it when the same settings would give other frames.
        needs_model: whether `spec.model` names its weights.
        model_files: files that the model's folder must have.
        windows: allowed values of `spec.window`, the default first.
        normalisations: the same of `spec.normalisation`.
        gives_dimensions: whether its encodings have arousal, dominance and valence.
        several_layers: whether it can give several layers: `spec.layer_numbers` are those to give,
            in this order; empty for one layer, `spec.layer`.
        pickled_weights: whether a model's folder may have `pytorch_model.bin` in place of
            safetensors. It is read with `weights_only`, which executes nothing.
        spec: identity of its frames.
        frame_size: D, values in a frame of one layer.
        licence: licence of the model; begins with "none" if there is no model.
    """

    frame_rate: ClassVar[float] = 50.0
    version: ClassVar[int] = 1
    needs_model: ClassVar[bool] = True
    model_files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json",)
    windows: ClassVar[tuple[str, ...]] = ("clip",)
    normalisations: ClassVar[tuple[str, ...]] = ("none",)
    gives_dimensions: ClassVar[bool] = False
    several_layers: ClassVar[bool] = False
    pickled_weights: ClassVar[bool] = False
    frame_size: int
    licence: str

    def __init__(self, spec: EncoderSpec, options: Any, device: torch.device) -> None:
        self.spec = spec
        self.device = device

    @classmethod
    def model_frame_rate(cls, spec: EncoderSpec, folder: Path) -> float:
        """Frames a second with the model in a folder; asked where `frame_rate` is 0.

        Raises:
            ConfigError: the encoder does not take this model.
        """
        return cls.frame_rate

    @abstractmethod
    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Encode 16 kHz mono waveforms (S,) float32; frames do not depend on the batch."""

    @classmethod
    def count_blocks(cls, folder: Path) -> int:
        """Number of blocks of the model in a folder, for `layers = "all"`, without loading it.

        Raises:
            ConfigError: config.json has no such number.
        """
        file = folder / "config.json"
        try:
            config = load(file)
            return next(int(config[key]) for key in BLOCK_KEYS if key in config)
        except (OSError, ValueError, TypeError, StopIteration) as error:
            raise ConfigError(
                f"{file}: found no number of blocks ({' or '.join(BLOCK_KEYS)}), which "
                'layers = "all" needs; write the numbers of the layers'
            ) from error


def whisper_frame_count(samples: Count) -> Count:
    """Number of frames of Whisper's encoder for 16 kHz samples, without padding; of one clip or of
    many, as an array of integers.
    """
    mel_frames = -(-samples // 160)
    return (mel_frames - 1) // 2 + 1


def stack_layers(frames: Sequence[torch.Tensor]) -> np.ndarray:
    """Copy K hidden states (L, D) of one clip to (L, K, D) float32, in memory layer by layer."""
    stacked = torch.stack([state.float() for state in frames]).cpu().numpy()  # (K, L, D)
    return np.swapaxes(stacked, 0, 1)  # (K, L, D) -> (L, K, D)


def check_layer(spec: EncoderSpec, blocks: int) -> None:
    """Raise `ConfigError` unless the model has the spec's layer, or layers."""
    for layer in spec.layer_numbers or (spec.layer,):
        if not -1 <= layer <= blocks:
            raise ConfigError(
                f"encoder {spec.kind} {spec.model}: layer {layer} does not exist; expected 0 to "
                f"{blocks}, or -1 for the last"
            )
