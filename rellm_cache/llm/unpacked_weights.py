"""Unpacked 4-bit weights of an LLM on a CPU, while it writes many answers.

bitsandbytes unpacks every matrix again for each token. When memory allows, one unpacked copy of
all matrices saves this work. The results are the same, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.utils.devices import machine_memory

SHARE = 4  # the copy takes at most a quarter of the available memory


@contextmanager
def unpacked_weights(llm: FrozenLLM) -> Iterator[None]:
    """Hold a copy of an LLM's 4-bit matrices in the dtype of its computations during the block.

    It does nothing on a GPU, which unpacks quickly, and where the copy would take more than a
    quarter of the available memory: 0.4 GB for 0.1 billion weights, 28 GB for 7 billion.
    """
    layers = [m for m in llm.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    needed = sum(m.in_features * m.out_features for m in layers) * llm.dtype.itemsize
    if llm.device.type != "cpu" or needed * SHARE > machine_memory()[1]:
        yield
        return
    try:
        for layer in layers:
            weight = bitsandbytes.functional.dequantize_4bit(
                layer.weight.data, layer.weight.quant_state
            )
            layer.forward = partial(_linear, weight=weight.to(llm.dtype), bias=layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # the class's own method again


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(inputs, weight, bias)
