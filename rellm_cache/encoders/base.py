"""What every frame encoder is. In: waveforms. Out: frames at 50 Hz, one `Encoding` a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.errors import ConfigError

FRAMES_PER_SECOND = 50  # of every encoder


@dataclass(frozen=True)
class Encoding:
    """One clip as an encoder hears it.

    Attributes:
        frames: (L, D) float32; the store keeps them as float16.
        vad: (3,) float32 arousal, dominance, valence in about 0..1, from encoders with that head.
    """

    frames: np.ndarray
    vad: np.ndarray | None = None


class FrameEncoder(Protocol):
    """A frozen encoder.

    Attributes:
        spec: what its frames are, weights resolved.
        frame_size: D, values in a frame.
        licence: of the model that makes the frames.
    """

    spec: EncoderSpec
    frame_size: int
    licence: str

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Frames of each waveform (S,) float32 at 16 kHz, mono; a clip alone or in any batch
        gives the same frames."""
        ...


def whisper_frame_count(samples: int) -> int:
    """Frames Whisper's encoder has for a clip of so many 16 kHz samples, less those of padding."""
    mel_frames = -(-samples // 160)
    return (mel_frames - 1) // 2 + 1


def check_layer(spec: EncoderSpec, blocks: int) -> None:
    """Raise `ConfigError` unless the spec's layer is one the model has."""
    if not -1 <= spec.layer <= blocks:
        raise ConfigError(
            f"encoder {spec.kind} {spec.model}: layer {spec.layer} does not exist; expected 0 to "
            f"{blocks}, or -1 for the last"
        )
