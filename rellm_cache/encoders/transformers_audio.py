"""Audio encoders of transformers: wav2vec2, HuBERT, WavLM, data2vec, UniSpeech, SEW, w2v-BERT.

What differs between models is read from the model's folder: normalisation and attention mask from
`preprocessor_config.json`, frame rate and number of frames from `config.json`, the licence from the
model card.

A clip has the same frames alone and in a batch. Clips of different lengths are padded and masked
only where the mask hides padding completely: in w2v-BERT, and in models with layer norm in the
feature extractor. Elsewhere padding changes the frames of a clip even with a mask, so that only
clips of exactly the same length share a forward pass:

- with `feat_extract_norm = "group"` each channel is normalised over time, padding included (these
  models, such as wav2vec2-base, were trained without a mask);
- in data2vec-audio, in wav2vec2-conformer and in HuBERT with `conv_pos_batch_norm`, padding is no
  longer zero when a convolution reads it;
- SEW and SEW-D average neighbouring frames, at the end a frame of the clip and one of padding.
"""

import warnings
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import Encoding, FrameEncoder, check_layer, stack_layers
from rellm_cache.errors import AudioError, ConfigError
from rellm_cache.utils.model_files import (
    UNKNOWN_LICENCE,
    find_model,
    load_pretrained,
    model_errors,
    stated_licence,
)

# `model_type` in config.json, and whether a mask can hide padding in this family.
FAMILIES = {
    "wav2vec2": True,  # XLS-R and MMS too
    "hubert": True,
    "wavlm": True,
    "unispeech": True,
    "unispeech-sat": True,
    "wav2vec2-bert": True,
    "wav2vec2-conformer": False,
    "data2vec-audio": False,
    "sew": False,
    "sew-d": False,
}
MEL_FAMILY = "wav2vec2-bert"  # reads mel frames; the others read the waveform by convolutions
MEL_HOP, MEL_WINDOW = 160, 400  # samples
REPLACES_FRAMES = "masked_spec_embed"  # a weight that is used in training only


class TransformersAudioEncoder(FrameEncoder):
    """Frames of one hidden state, or several, of a frozen audio encoder."""

    frame_rate = 0.0
    normalisations = ("preprocessor",)
    several_layers = True
    pickled_weights = True

    def __init__(self, spec: EncoderSpec, options: None, device: torch.device) -> None:
        super().__init__(spec, options, device)
        folder = find_model(spec.model, self.model_files, pickled=True)
        config = _load_config(spec, folder)
        self._features = _load_features(spec, folder)
        model = load_pretrained(
            AutoModel,
            folder,
            "use a checkpoint with the whole encoder",
            lambda name: name != REPLACES_FRAMES,
            dtype=torch.float32,
        )
        self._layers = spec.layer_numbers or (spec.layer,)
        self._states: dict[int, torch.Tensor] = {}  # layer → (B, T, D) of the last forward
        self._keep_states(model)
        if -1 not in self._layers:
            _cut_above(model, max(self._layers))
        self._model = model.to(device).eval().requires_grad_(False)
        self._squeeze = getattr(config, "squeeze_factor", 1)  # frames that SEW's blocks join
        self._min_samples = _min_samples(config, self._features)
        self._pads = _mask_hides_padding(config, self._features)
        self.frame_size = int(config.hidden_size)
        self.licence = stated_licence(folder) or UNKNOWN_LICENCE

    @classmethod
    def model_frame_rate(cls, spec: EncoderSpec, folder: Path) -> float:
        """Frames a second of a layer: 50 in nearly all models; 25 in the blocks of SEW."""
        config = _load_config(spec, folder)
        samples = _frame_samples(config, _load_features(spec, folder))
        if -1 not in (spec.layer_numbers or (spec.layer,)):
            samples *= getattr(config, "squeeze_factor", 1)
        return spec.sampling_rate / samples

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        """Frames (L, D) of each waveform (S,) float32 at 16 kHz; of K layers (L, K, D).

        Raises:
            AudioError: a waveform is too short for a frame.
        """
        groups: dict[int, list[int]] = {}
        for index, waveform in enumerate(waveforms):
            self._require_a_frame(len(waveform))
            groups.setdefault(0 if self._pads else len(waveform), []).append(index)
        found: dict[int, Encoding] = {}
        for indices in groups.values():
            encodings = self._encode_batch([waveforms[i] for i in indices])
            found.update(zip(indices, encodings, strict=True))
        return [found[i] for i in range(len(waveforms))]

    def _encode_batch(self, waveforms: list[np.ndarray]) -> list[Encoding]:
        """Encodings of clips in one forward pass, padded to the longest."""
        inputs = self._features(
            waveforms, sampling_rate=self.spec.sampling_rate, padding=True, return_tensors="pt"
        ).to(self.device)
        half = torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")
        with half, warnings.catch_warnings():
            # Of WavLM's attention, whose mask and position bias have different types.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            last = self._model(**inputs).last_hidden_state  # (B, T, D)
        states = {**self._states, -1: last}
        self._states.clear()
        found = []
        for row, waveform in enumerate(waveforms):
            length = self._frame_count(len(waveform))
            # Copies: a view would keep the padded batch in memory until its frames are written.
            frames = stack_layers([states[layer][row, :length] for layer in self._layers])
            found.append(Encoding(frames if self.spec.layers else frames[:, 0]))
        return found

    def _keep_states(self, model: Any) -> None:
        """Let hooks record the hidden states of the spec's layers, except the last."""
        blocks = _blocks(model)

        def before(block: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            self._states[0] = arguments[0]

        def after(layer: int) -> Callable[[nn.Module, object, Any], None]:
            def keep(block: nn.Module, arguments: object, output: Any) -> None:
                self._states[layer] = output[0] if isinstance(output, tuple) else output

            return keep

        for layer in self._layers:
            if layer == 0:
                blocks[0].register_forward_pre_hook(before)
            elif layer > 0:
                blocks[layer - 1].register_forward_hook(after(layer))

    def _frame_count(self, samples: int) -> int:
        """Number of frames of a clip, without those that padding alone makes."""
        if self._model.config.model_type == MEL_FAMILY:
            return (1 + (samples - MEL_WINDOW) // MEL_HOP) // int(self._features.stride)
        count = int(self._model._get_feat_extract_output_lengths(samples))
        # SEW's last hidden state is upsampled again, without a last odd frame.
        joined = count // self._squeeze
        return joined * self._squeeze if -1 in self._layers else joined

    def _require_a_frame(self, samples: int) -> None:
        if samples < self._min_samples:
            rate = self.spec.sampling_rate
            raise AudioError(
                f"clip of {samples} samples ({samples / rate:.3f} s): {self.spec.slug} needs "
                f"{self._min_samples} ({self._min_samples / rate:.3f} s) for a frame; leave it out"
            )


def _load_config(spec: EncoderSpec, folder: Path) -> Any:
    """The config of a model; `ConfigError` for an unknown family or a layer that it has not."""
    with model_errors(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family = config.model_type
    where = f"{folder}/config.json: model_type = {family!r}"
    if family == "whisper":
        raise ConfigError(f'{where}: use kind = "whisper", which knows its 30 s window')
    if family not in FAMILIES:
        raise ConfigError(
            f"{where}: expected {', '.join(FAMILIES)}; for another model write an encoder of your "
            "own (docs/extending.md)"
        )
    check_layer(spec, config.num_hidden_layers)
    layers = spec.layer_numbers or (spec.layer,)
    if -1 in layers and getattr(config, "add_adapter", False):
        raise ConfigError(
            f"{folder}/config.json: add_adapter = true, so that the last hidden state is that of a "
            f"length adapter; set layer = {config.num_hidden_layers}, the last block before it"
        )
    if -1 in layers[1:] and getattr(config, "squeeze_factor", 1) > 1:
        raise ConfigError(
            f"{folder}/config.json: squeeze_factor = {config.squeeze_factor}, so that layer -1 has "
            f"more frames than the blocks; leave it out of layers, or set layer = -1 alone"
        )
    return config


def _load_features(spec: EncoderSpec, folder: Path) -> Any:
    """The feature extractor of a model; `ConfigError` unless it takes the spec's sampling rate."""
    with model_errors(folder):
        features = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    if features.sampling_rate != spec.sampling_rate:
        raise ConfigError(
            f"{folder}/preprocessor_config.json: sampling_rate = {features.sampling_rate}, "
            f"expected {spec.sampling_rate}, the rate of the waveforms here; choose another model"
        )
    return features


def _cut_above(model: Any, layer: int) -> None:
    """Remove a model's blocks above a layer, and what follows the last block."""
    del _blocks(model)[max(layer, 1) :]
    if hasattr(model, "adapter"):
        model.adapter = None


def _blocks(model: Any) -> nn.ModuleList:
    """The transformer blocks of a model; SEW-D has them one level deeper."""
    encoder = model.encoder
    blocks: nn.ModuleList = encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layer
    return blocks


def _frame_samples(config: Any, features: Any) -> int:
    """Samples from one frame to the next, before SEW joins frames."""
    if config.model_type == MEL_FAMILY:
        return MEL_HOP * int(features.stride)
    return prod(config.conv_stride)


def _min_samples(config: Any, features: Any) -> int:
    """Samples of the shortest clip that gives a frame in every layer."""
    if config.model_type == MEL_FAMILY:
        return MEL_WINDOW + (int(features.stride) - 1) * MEL_HOP
    samples: int = getattr(config, "squeeze_factor", 1)
    layers = zip(config.conv_kernel, config.conv_stride, strict=True)
    for kernel, stride in reversed(list(layers)):
        samples = (samples - 1) * stride + kernel
    return samples


def _mask_hides_padding(config: Any, features: Any) -> bool:
    """Whether masked padding leaves a clip's frames unchanged; see the module's documentation."""
    return (
        FAMILIES[config.model_type]
        and bool(features.return_attention_mask)
        and getattr(config, "feat_extract_norm", "layer") == "layer"
        and not getattr(config, "conv_pos_batch_norm", False)
    )
