"""Frame encoder: the protocol of all encoders, which turn waveforms into frames at 50 Hz."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import ConfigError

FRAMES_PER_SECOND = 50  # for every encoder


@dataclass(frozen=True)
class Encoding:
    """Output of an encoder for one clip.

    Attributes:
        frames: (L, D) float32; the store keeps them as float16.
        vad: (3,) float32 arousal, dominance, valence in about 0..1; None without an emotion head.
    """

    frames: np.ndarray
    vad: np.ndarray | None = None


class FrameEncoder(Protocol):
    """A frozen encoder.

    Attributes:
        spec: identity of its frames, with the digest of the weights.
        frame_size: D, values in a frame.
        licence: license of the model.
    """

    spec: EncoderSpec
    frame_size: int
    licence: str

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Encode 16 kHz mono waveforms (S,) float32; frames do not depend on the batch."""
        ...


def whisper_frame_count(samples: int) -> int:
    """Number of frames of Whisper's encoder for a clip of 16 kHz samples, without padding."""
    mel_frames = -(-samples // 160)
    return (mel_frames - 1) // 2 + 1


def check_layer(spec: EncoderSpec, blocks: int) -> None:
    """Raise `ConfigError` unless the model has the spec's layer."""
    if not -1 <= spec.layer <= blocks:
        raise ConfigError(
            f"encoder {spec.kind} {spec.model}: layer {spec.layer} does not exist; expected 0 to "
            f"{blocks}, or -1 for the last"
        )
