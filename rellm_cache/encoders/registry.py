"""Encoder registry: builds the encoder of an `EncoderSpec`."""

from dataclasses import replace

import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.errors import ConfigError
from rellm_cache.utils.devices import describe_machine
from rellm_cache.utils.model_files import find_model, pinned_digest


def resolve(spec: EncoderSpec) -> EncoderSpec:
    """Add the digest of the weights to a spec, without loading the model.

    Raises:
        ConfigError: the model cannot be found, its weights are not those that the spec pins, or no
            encoder makes frames of this dtype.
    """
    if spec.dtype != "float16":
        raise ConfigError(
            f"encoder {spec.kind!r}: dtype = {spec.dtype!r}, but encoders make float16 frames; run "
            'this with dtype = "float16", then convert that store to int8: '
            "`rellm cache quantize <its folder>`. Training and `generate` from the cache read it"
        )
    if not spec.model:
        return spec
    folder = find_model(spec.model, ("preprocessor_config.json",))
    return replace(spec, weights_sha256=pinned_digest(folder, spec.weights_sha256))


def build_encoder(spec: EncoderSpec, device: torch.device) -> FrameEncoder:
    """Load the encoder of a spec.

    Raises:
        ConfigError: the model cannot be found, lacks a file, or lacks the spec's layer.
    """
    # Imported here, so that only the libraries of this encoder are loaded.
    if spec.kind == "whisper":
        from rellm_cache.encoders.whisper import WhisperEncoder

        return WhisperEncoder(spec, device)
    if spec.kind == "wav2vec2-emotion":
        from rellm_cache.encoders.wav2vec2_emotion import Wav2Vec2EmotionEncoder

        return Wav2Vec2EmotionEncoder(spec, device)
    from rellm_cache.encoders.prosody import ProsodyEncoder

    return ProsodyEncoder(spec)


def encoder_module(spec: EncoderSpec) -> str:
    """Name of the module with a spec's encoder; importing it also imports its libraries."""
    return f"rellm_cache.encoders.{spec.kind.replace('-', '_')}"


def encoding_machine(spec: EncoderSpec, device: torch.device) -> dict[str, str]:
    """Description of the machine that computes the frames of a spec."""
    # Prosody always runs on the CPU; models run in half precision on a GPU.
    on = device if spec.model else torch.device("cpu")
    return describe_machine(on, torch.float16 if on.type == "cuda" else torch.float32)
