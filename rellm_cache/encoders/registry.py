"""From an `EncoderSpec` to the encoder that makes its frames."""

from dataclasses import replace

import torch

from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import FrameEncoder
from rellm_cache.errors import ConfigError
from rellm_cache.utils.devices import describe_machine
from rellm_cache.utils.model_files import find_model, pinned_digest


def resolve(spec: EncoderSpec) -> EncoderSpec:
    """The spec with its weights' digest filled in, without loading the model.

    Raises:
        ConfigError: the model cannot be found, or its weights are not those the spec pins; or the
            spec is of frames that no encoder makes.
    """
    if spec.dtype != "float16":
        raise ConfigError(
            f"encoder {spec.kind!r}: dtype = {spec.dtype!r}, but encoders make float16 frames; run "
            'this with dtype = "float16", then make the int8 store from that one: '
            "`rellm cache quantize <its folder>`. Training and `generate` from the cache read it"
        )
    if not spec.model:
        return spec
    folder = find_model(spec.model, ("preprocessor_config.json",))
    return replace(spec, weights_sha256=pinned_digest(folder, spec.weights_sha256))


def build_encoder(spec: EncoderSpec, device: torch.device) -> FrameEncoder:
    """Load the encoder of a spec.

    Raises:
        ConfigError: the model cannot be found, lacks a file, or has no such layer.
    """
    # Each encoder imports the library it needs only when a recipe asks for it.
    if spec.kind == "whisper":
        from rellm_cache.encoders.whisper import WhisperEncoder

        return WhisperEncoder(spec, device)
    if spec.kind == "wav2vec2-emotion":
        from rellm_cache.encoders.wav2vec2_emotion import Wav2Vec2EmotionEncoder

        return Wav2Vec2EmotionEncoder(spec, device)
    from rellm_cache.encoders.prosody import ProsodyEncoder

    return ProsodyEncoder(spec)


def encoder_module(spec: EncoderSpec) -> str:
    """Name of the module that holds a spec's encoder; importing it imports the library as well."""
    return f"rellm_cache.encoders.{spec.kind.replace('-', '_')}"


def encoding_machine(spec: EncoderSpec, device: torch.device) -> dict[str, str]:
    """What computes the frames of a spec."""
    # Prosody is measured on the CPU whatever the device; models run in half precision on a GPU.
    on = device if spec.model else torch.device("cpu")
    return describe_machine(on, torch.float16 if on.type == "cuda" else torch.float32)
