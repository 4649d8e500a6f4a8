"""Encoder registry."""

import importlib
from typing import get_args

import pytest

from rellm_cache.config.specs import EncoderKind, EncoderSpec
from rellm_cache.encoders.registry import encoder_module


@pytest.mark.parametrize("kind", get_args(EncoderKind))
def test_every_kind_has_a_module_of_its_own(kind: EncoderKind) -> None:
    module = importlib.import_module(
        encoder_module(EncoderSpec(kind=kind, model="" if kind == "prosody" else "folder"))
    )
    assert [name for name in vars(module) if name.endswith("Encoder")]
