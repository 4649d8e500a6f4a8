"""Whisper's encoder, any checkpoint and layer. In: waveforms. Out: frames at 50 Hz.

Each clip is padded to 30 s as in Whisper's training, encoded, and its frames cut to the clip's own
length (FACTS: `frames = (ceil(samples / 160) - 1) // 2 + 1`), so batch neighbours change nothing.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperModel

from rellm_cache.config import EncoderSpec
from rellm_cache.encoders.base import Encoding, check_layer, whisper_frame_count
from rellm_cache.errors import AudioError, ConfigError
from rellm_cache.weights import find_model

MAX_SAMPLES = 30 * 16_000


class WhisperEncoder:
    """Frames of one hidden state of a frozen Whisper encoder."""

    licence = "MIT"

    def __init__(self, spec: EncoderSpec, device: torch.device) -> None:
        folder = find_model(spec.model, ("preprocessor_config.json",))
        self.spec = spec
        self.device = device
        self._features = WhisperFeatureExtractor.from_pretrained(folder)
        model, report = WhisperModel.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        encoder = model.encoder
        missing = sorted(k for k in report["missing_keys"] if k.startswith("encoder."))
        if missing:
            raise ConfigError(
                f"{folder}: the checkpoint lacks {missing[:3]}; expected a Whisper checkpoint as "
                "transformers saves it"
            )
        check_layer(spec, len(encoder.layers))
        if spec.layer != -1:
            # Blocks above the wanted hidden state, and the final norm, would be computed in vain.
            encoder.layers = encoder.layers[: spec.layer]
            encoder.layer_norm = torch.nn.Identity()
        self._encoder = encoder.to(device).eval().requires_grad_(False)
        self.frame_size = int(encoder.config.d_model)

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Frames (L, d_model) of each waveform (S,) float32, 16 kHz, at most 30 s."""
        for waveform in waveforms:
            if len(waveform) > MAX_SAMPLES:
                raise AudioError(
                    f"clip of {len(waveform) / 16_000:.2f} s: Whisper hears 30 s at most; cut it"
                )
        mel = self._features(
            list(waveforms), sampling_rate=16_000, return_tensors="pt", padding="max_length"
        ).input_features  # (B, mels, 3000)
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            hidden = self._encoder(mel.to(self.device)).last_hidden_state  # (B, 1500, D)
        frames = hidden.float().cpu().numpy()
        return [
            Encoding(f[: whisper_frame_count(len(w))])
            for f, w in zip(frames, waveforms, strict=True)
        ]
