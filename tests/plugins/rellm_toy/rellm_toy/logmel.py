"""Log-mel encoder: energies of mel bands, 40 frames a second, without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import librosa
import numpy as np
import torch

import rellm_cache as rellm
from rellm_cache.config.constraints import Range
from rellm_cache.config.specs import EncoderSpec

HOP = 400  # samples at 16 kHz


@dataclass(frozen=True)
class LogMelOptions:
    """Options of the encoder."""

    bands: Annotated[int, Range(8, 128)] = 40
    """Mel bands, which are the values of a frame."""


@rellm.register_encoder("toy-logmel", options=LogMelOptions)
class LogMel(rellm.FrameEncoder):
    """Log energies of mel bands."""

    frame_rate = 16_000 / HOP
    needs_model = False
    normalisations = ("log",)
    licence = "none (no model)"

    def __init__(self, spec: EncoderSpec, options: LogMelOptions, device: torch.device) -> None:
        super().__init__(spec, options, device)
        self.frame_size = options.bands

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[rellm.Encoding]:
        """(ceil(S / 400), bands) float32 of each waveform (S,)."""
        return [rellm.Encoding(self._frames(waveform)) for waveform in waveforms]

    def _frames(self, waveform: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(
            y=waveform, sr=16_000, n_fft=1024, hop_length=HOP, n_mels=self.frame_size
        )  # (bands, 1 + S // 400)
        return np.log(mel[:, : -(-len(waveform) // HOP)] + 1e-6).T.astype(np.float32)
