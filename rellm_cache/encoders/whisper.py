"""Whisper's encoder, any checkpoint and layer. In: waveforms. Out: frames at 50 Hz.

A clip has `(ceil(samples / 160) - 1) // 2 + 1` frames, whichever window it is heard in:

- `30s`: padded with silence to 30 s as in Whisper's training, encoded, and cut to its length.
- `clip`: the mel frames of the clip alone and as many position embeddings. In a batch, clips are
  padded to the longest and no frame attends to padding. The mel frames of a clip are even in
  number, so the convolutions' last frame ends where the clip does and sees no padding either.

So batch neighbours change nothing in either.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import gelu
from transformers import WhisperFeatureExtractor, WhisperModel

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import Encoding, check_layer, whisper_frame_count
from rellm_cache.errors import AudioError, ConfigError
from rellm_cache.utils.model_files import find_model

MAX_SAMPLES = 30 * 16_000
FRAME_SAMPLES = 320
WINDOW_SAMPLES = 400  # of the Fourier transform: so much silence after a clip decides its last mel


def load_features(folder: Path) -> WhisperFeatureExtractor:
    """What makes log-mel frames for a model; `ConfigError` unless of up to 30 s of 16 kHz."""
    features = WhisperFeatureExtractor.from_pretrained(folder)
    found = (features.sampling_rate, features.chunk_length)
    if found != (16_000, 30):
        raise ConfigError(
            f"{folder}/preprocessor_config.json: sampling_rate, chunk_length = {found}; expected "
            "(16000, 30), which Whisper was trained on: longer clips would be cut unseen"
        )
    return features


def check_samples(waveforms: Sequence[np.ndarray]) -> None:
    """Raise `AudioError` for a waveform above 30 s, whose end the model would not hear."""
    for waveform in waveforms:
        if len(waveform) > MAX_SAMPLES:
            raise AudioError(
                f"clip of {len(waveform) / 16_000:.2f} s: Whisper hears 30 s at most; cut it"
            )


class WhisperEncoder:
    """Frames of one hidden state of a frozen Whisper encoder."""

    licence = "MIT"

    def __init__(self, spec: EncoderSpec, device: torch.device) -> None:
        folder = find_model(spec.model, ("preprocessor_config.json",))
        self.spec = spec
        self.device = device
        self._features = load_features(folder)
        model, report = WhisperModel.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, attn_implementation="sdpa"
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
        """Frames (L, d_model) of each waveform (S,) float32, 16 kHz; `AudioError` above 30 s."""
        check_samples(waveforms)
        lengths = [whisper_frame_count(len(waveform)) for waveform in waveforms]
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            if self.spec.window == "clip":
                hidden = self._encode_clips(waveforms, lengths)  # (B, longest, D)
            else:
                hidden = self._encode_30s(waveforms)  # (B, 1500, D)
        # Copies: a view would keep the padded batch alive until its frames are written.
        return [
            Encoding(frames[:length].float().cpu().numpy().copy())
            for frames, length in zip(hidden, lengths, strict=True)
        ]

    def _encode_30s(self, waveforms: Sequence[np.ndarray]) -> torch.Tensor:
        mel = self._features(
            list(waveforms), sampling_rate=16_000, return_tensors="pt", padding="max_length"
        ).input_features  # (B, mels, 3000)
        hidden: torch.Tensor = self._encoder(mel.to(self.device)).last_hidden_state
        return hidden

    def _encode_clips(self, waveforms: Sequence[np.ndarray], lengths: list[int]) -> torch.Tensor:
        encoder = self._encoder
        longest = max(lengths)
        mel = torch.zeros(len(waveforms), self._features.feature_size, 2 * longest)
        for row, waveform, length in zip(mel, waveforms, lengths, strict=True):
            row[:, : 2 * length] = self._clip_mel(waveform, length)
        hidden = gelu(encoder.conv1(mel.to(self.device)))  # (B, mels, 2 T) -> (B, D, 2 T)
        hidden = gelu(encoder.conv2(hidden)).transpose(1, 2)  # (B, D, 2 T) -> (B, T, D)
        hidden = hidden + encoder.embed_positions.weight[:longest]
        frames = torch.arange(longest, device=self.device)
        heard = frames < torch.tensor(lengths, device=self.device)[:, None]  # (B, T)
        for block in encoder.layers:
            hidden = block(hidden, heard[:, None, None, :])  # which keys each frame attends to
        normed: torch.Tensor = encoder.layer_norm(hidden)
        return normed

    def _clip_mel(self, waveform: np.ndarray, length: int) -> torch.Tensor:
        """(mels, 2 length) log-mel frames of a clip with silence after it, as in 30 s."""
        end = length * FRAME_SAMPLES - len(waveform) + WINDOW_SAMPLES
        mel: torch.Tensor = self._features(
            np.pad(waveform, (0, end)), sampling_rate=16_000, return_tensors="pt", padding=False
        ).input_features[0]
        return mel[:, : 2 * length]
