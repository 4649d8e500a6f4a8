"""Dequantized copies of 4-bit models."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm


@pytest.fixture
def dequantized() -> Callable[[FrozenLLM], FrozenLLM]:
    """`dequantized(llm)`: the same model in float32, with the dequantized 4-bit weights."""

    def read_back(quantized: FrozenLLM) -> FrozenLLM:
        plain = load_llm(replace(quantized.config, quantization="none"), quantized.device)
        for name, module in quantized.model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(
                    module.weight, module.weight.quant_state
                )
                plain.model.get_submodule(name).weight.data = weight.float()
        return plain

    return read_back
