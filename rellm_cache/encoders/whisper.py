"""Whisper encoder: frames of any checkpoint, of one layer or several.

A clip has `(ceil(samples / 160) - 1) // 2 + 1` frames in both windows:

- `30s`: the clip is padded with silence to 30 s as in Whisper's training, encoded, and cut.
- `clip`: only the mel frames of the clip are encoded, with one position embedding per frame.
  In a batch, clips are padded to the longest, and padding is masked. The number of mel frames is
  even, so the last output frame of the convolutions does not overlap the padding.

A clip's frames do not depend on its batch. Several layers come from one forward pass, each equal to
the frames of that layer alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import gelu
from transformers import WhisperFeatureExtractor, WhisperModel

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import (
    Encoding,
    FrameEncoder,
    check_layer,
    stack_layers,
    whisper_frame_count,
)
from rellm_cache.errors import AudioError, ConfigError
from rellm_cache.utils.model_files import find_model, load_pretrained, model_errors

MAX_SAMPLES = 30 * 16_000
FRAME_SAMPLES = 320
WINDOW_SAMPLES = 400  # of the Fourier transform; the last mel frame reaches this far past the clip


def load_features(folder: Path) -> WhisperFeatureExtractor:
    """Load the log-mel feature extractor; `ConfigError` unless it is for 30 s at 16 kHz."""
    with model_errors(folder):
        features = WhisperFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    found = (features.sampling_rate, features.chunk_length)
    if found != (16_000, 30):
        raise ConfigError(
            f"{folder}/preprocessor_config.json: sampling_rate, chunk_length = {found}; expected "
            "(16000, 30), as in Whisper's training; otherwise long clips would be cut silently"
        )
    return features


def check_samples(waveforms: Sequence[np.ndarray]) -> None:
    """Raise `AudioError` for a waveform longer than 30 s."""
    for waveform in waveforms:
        if len(waveform) > MAX_SAMPLES:
            raise AudioError(
                f"clip of {len(waveform) / 16_000:.2f} s: Whisper takes 30 s at most; cut it"
            )


class WhisperEncoder(FrameEncoder):
    """Frames of one hidden state, or several, of a frozen Whisper encoder."""

    windows = ("30s", "clip")
    normalisations = ("log-mel",)
    several_layers = True
    licence = "MIT"

    def __init__(self, spec: EncoderSpec, options: None, device: torch.device) -> None:
        super().__init__(spec, options, device)
        folder = find_model(spec.model, self.model_files)
        self._features = load_features(folder)
        encoder = load_pretrained(
            WhisperModel,
            folder,
            "use a Whisper checkpoint in the layout of transformers",
            lambda name: name.startswith("encoder."),
            dtype=torch.float32,
            attn_implementation="sdpa",
        ).encoder
        check_layer(spec, len(encoder.layers))
        layers = spec.layer_numbers or (spec.layer,)
        if -1 not in layers:
            # The blocks above the highest hidden state and the final norm are not needed.
            encoder.layers = encoder.layers[: max(layers)]
            encoder.layer_norm = torch.nn.Identity()
        self._encoder = encoder.to(device).eval().requires_grad_(False)
        self._states: dict[int, torch.Tensor] = {}  # layer → hidden state of this forward pass
        for layer, module in enumerate((*encoder.layers, encoder.layer_norm)):
            if layer in spec.layer_numbers:
                module.register_forward_pre_hook(self._keep_input(layer))
        self.frame_size = int(encoder.config.d_model)

    def _keep_input(
        self, layer: int
    ) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        """A hook that keeps the input of a module: the hidden state of a layer."""

        def keep(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self._states[layer] = inputs[0]

        return keep

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Frames (L, d_model) of each waveform (S,) float32, 16 kHz; `AudioError` above 30 s.

        Of K layers (L, K, d_model).
        """
        check_samples(waveforms)
        lengths = [whisper_frame_count(len(waveform)) for waveform in waveforms]
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            if self.spec.window == "clip":
                hidden = self._encode_clips(waveforms, lengths)  # (B, longest, D)
            else:
                hidden = self._encode_30s(waveforms)  # (B, 1500, D)
        if not self.spec.layers:
            # Copies: a view would keep the padded batch in memory until its frames are written.
            return [
                Encoding(frames[:length].float().cpu().numpy().copy())
                for frames, length in zip(hidden, lengths, strict=True)
            ]
        states = {**self._states, -1: hidden}
        self._states.clear()
        return [
            Encoding(stack_layers([states[k][row, :length] for k in self.spec.layer_numbers]))
            for row, length in enumerate(lengths)
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
        is_frame = frames < torch.tensor(lengths, device=self.device)[:, None]  # (B, T)
        for block in encoder.layers:
            hidden = block(hidden, is_frame[:, None, None, :])  # masks padding
        normed: torch.Tensor = encoder.layer_norm(hidden)
        return normed

    def _clip_mel(self, waveform: np.ndarray, length: int) -> torch.Tensor:
        """(mels, 2 length) log-mel frames of a clip followed by silence, as in the 30 s window."""
        end = length * FRAME_SAMPLES - len(waveform) + WINDOW_SAMPLES
        mel: torch.Tensor = self._features(
            np.pad(waveform, (0, end)), sampling_rate=16_000, return_tensors="pt", padding=False
        ).input_features[0]
        return mel[:, : 2 * length]
