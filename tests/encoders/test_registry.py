"""Encoder registry: ours are declared as their classes say, and another kind is built."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from rellm_cache.config.plugins import ENCODERS, EncoderTraits
from rellm_cache.config.schema import EncoderConfig
from rellm_cache.config.specs import EncoderSpec
from rellm_cache.encoders.base import Encoding, FrameEncoder
from rellm_cache.encoders.registry import (
    build_encoder,
    encoder_module,
    register_encoder,
    require_importable,
    resolve,
)
from rellm_cache.errors import ConfigError


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2-emotion", "prosody"])
def test_an_encoder_is_declared_as_its_class_says(kind: str) -> None:
    plugin = ENCODERS.find(kind, "here")
    assert issubclass(plugin.loaded, FrameEncoder)
    assert encoder_module(EncoderSpec(kind=kind)) == plugin.loaded.__module__
    for field in dataclasses.fields(EncoderTraits):
        assert getattr(plugin.loaded, field.name) == getattr(plugin.traits, field.name)
        assert getattr(FrameEncoder, field.name) == field.default


class Level(FrameEncoder):
    """One value, ten times a second."""

    frame_rate, version, needs_model = 10.0, 3, False
    frame_size, licence = 1, "none"

    def encode(self, waveforms: Sequence[np.ndarray]) -> list[Encoding]:
        return [Encoding(np.full((len(w) // 1600, 1), self.gain, np.float32)) for w in waveforms]

    def __init__(self, spec: EncoderSpec, options: "Gain", device: torch.device) -> None:
        super().__init__(spec, options, device)
        self.gain = options.gains[0]


@dataclasses.dataclass(frozen=True)
class Gain:
    """Options of an encoder."""

    gains: tuple[float, ...] = (1.0,)
    """Gains."""


def test_another_kind_is_built_with_its_options() -> None:
    with ENCODERS.restored():
        register_encoder("level", options=Gain)(Level)
        config = EncoderConfig(kind="level", options={"gains": [2, 3.0]})
        spec = resolve(config.spec)
        assert (spec.version, spec.frame_rate, spec.provider) == (3, 10.0, f"module {__name__}")
        (encoding,) = build_encoder(spec, torch.device("cpu")).encode([np.zeros(16_000)])
        assert encoding.frames.tolist() == [[2.0]] * 10
        other = EncoderConfig(kind="level")
        assert other.fingerprint != config.fingerprint
        assert other.differences(spec) == [
            "options: wanted {'gains': (1.0,)}, found {'gains': (2.0, 3.0)}"
        ]
        with pytest.raises(ConfigError, match=r"module .* in this process only, so that workers"):
            require_importable([spec])
        with pytest.raises(ConfigError, match=r"'level': found model = 'm', expected no model"):
            EncoderConfig(kind="level", model="m")
    again = EncoderSpec.from_json(spec.to_json())  # not installed: still read
    assert (again, again.fingerprint) == (spec, spec.fingerprint)
    with pytest.raises(ConfigError, match=r"level.*; module .* registered it: import that module"):
        build_encoder(again, torch.device("cpu"))
    with pytest.raises(ConfigError, match="no encoder is named 'level'; known are whisper"):
        EncoderConfig(kind="level")
