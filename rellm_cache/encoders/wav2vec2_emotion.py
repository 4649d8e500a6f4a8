"""wav2vec2 emotion encoder in audeering's layout: frames, and arousal, dominance, valence.

For `audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim` (head: mean over time, dense, tanh,
projection; output arousal, dominance, valence in about 0..1). Padding is masked, so a clip's frames
and dimensions do not depend on its batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model, Wav2Vec2PreTrainedModel
from transformers.models.wav2vec2.configuration_wav2vec2 import Wav2Vec2Config

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import Encoding, FrameEncoder, check_layer, stack_layers
from rellm_cache.errors import ConfigError
from rellm_cache.utils.model_files import find_model, load_pretrained, model_errors


class DimensionHead(nn.Module):
    """Mean frame (B, D) → arousal, dominance, valence (B, 3)."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, 3)

    def forward(self, mean_frame: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, 3)."""
        dimensions: torch.Tensor = self.out_proj(torch.tanh(self.dense(mean_frame)))
        return dimensions


class EmotionModel(Wav2Vec2PreTrainedModel):
    """Module tree of the checkpoint: keys `wav2vec2.*` and `classifier.*`."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config)
        self.wav2vec2 = Wav2Vec2Model(config)
        self.classifier = DimensionHead(config)
        self.post_init()


class Wav2Vec2EmotionEncoder(FrameEncoder):
    """Frames of one hidden state, or several, and the dimensions of the emotion head."""

    normalisations = ("zero-mean-unit-variance",)
    gives_dimensions = True
    several_layers = True
    licence = "CC-BY-NC-SA-4.0"

    def __init__(self, spec: EncoderSpec, options: None, device: torch.device) -> None:
        super().__init__(spec, options, device)
        folder = find_model(spec.model, self.model_files)
        with model_errors(folder):
            self._features = Wav2Vec2FeatureExtractor.from_pretrained(
                folder, trust_remote_code=False
            )
            config = Wav2Vec2Config.from_pretrained(folder, trust_remote_code=False)
        found = (self._features.sampling_rate, self._features.do_normalize)
        if found != (spec.sampling_rate, True):
            raise ConfigError(
                f"{folder}/preprocessor_config.json: sampling_rate, do_normalize = {found}; "
                f"expected ({spec.sampling_rate}, True): the model needs waveforms with zero mean "
                "and unit variance"
            )
        if config.feat_extract_norm != "layer":
            raise ConfigError(
                f"{folder}: feat_extract_norm = {config.feat_extract_norm!r}; expected "
                "'layer': with group norm a clip's frames would depend on its batch"
            )
        model = load_pretrained(
            EmotionModel,
            folder,
            "use audeering's layout with keys wav2vec2.*, classifier.dense, classifier.out_proj",
            dtype=torch.float32,
        )
        check_layer(spec, model.config.num_hidden_layers)
        self._model = model.to(device).eval().requires_grad_(False)
        self.frame_size = int(model.config.hidden_size)

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Frames (L, hidden) and dimensions (3,) of each waveform (S,) float32 at 16 kHz.

        Frames of K layers are (L, K, hidden).
        """
        inputs = self._features(
            list(waveforms),
            sampling_rate=16_000,
            return_tensors="pt",
            padding=True,
            return_attention_mask=True,
        )
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            output = self._model.wav2vec2(
                inputs.input_values.to(self.device),
                attention_mask=inputs.attention_mask.to(self.device),
                output_hidden_states=self.spec.layer != -1 or bool(self.spec.layers),
            )
        last = output.last_hidden_state.float()  # (B, T, D)
        lengths = [
            int(self._model.wav2vec2._get_feat_extract_output_lengths(len(w))) for w in waveforms
        ]
        means = torch.stack([f[:n].mean(0) for f, n in zip(last, lengths, strict=True)])  # (B, D)
        vads = self._model.classifier(means).cpu().numpy()  # (B, 3)
        states = {-1: last, **dict(enumerate(output.hidden_states or ()))}  # layer → (B, T, D)
        if self.spec.layers:
            chosen = [states[layer] for layer in self.spec.layer_numbers]
            frames = [
                stack_layers([state[row, :n] for state in chosen]) for row, n in enumerate(lengths)
            ]
            return [Encoding(f, vad) for f, vad in zip(frames, vads, strict=True)]
        frames = states[self.spec.layer].float().cpu().numpy()
        return [Encoding(f[:n], vad) for f, n, vad in zip(frames, lengths, vads, strict=True)]
