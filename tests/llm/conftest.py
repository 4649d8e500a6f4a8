"""What 4-bit weights stand for."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm


@pytest.fixture
def dequantised() -> Callable[[FrozenLLM], FrozenLLM]:
    """`dequantised(llm)`: the same function in plain float32, weights read out of their 4 bits."""

    def read_back(quantised: FrozenLLM) -> FrozenLLM:
        plain = load_llm(replace(quantised.config, quantization="none"), quantised.device)
        for name, module in quantised.model.named_modules():
            if isinstance(module, bitsandbytes.nn.Linear4bit):
                weight = bitsandbytes.functional.dequantize_4bit(
                    module.weight, module.weight.quant_state
                )
                plain.model.get_submodule(name).weight.data = weight.float()
        return plain

    return read_back
