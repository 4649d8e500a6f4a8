"""Unpacked 4-bit weights of an LLM on a CPU, while it trains an adapter or writes answers.

bitsandbytes unpacks every matrix again for each token, and for each forward and backward pass. When
memory allows, one unpacked copy of all matrices saves this work. The results are the same, bit for
bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from rellm_cache.llm.bf16_products import linear
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.utils.devices import machine_memory

SHARE = 4  # the copy takes at most a quarter of the available memory


def unpacked_bytes(values: int, itemsize: int) -> int:
    """Bytes of the copy of so many 4-bit weights; 0 where memory does not allow it.

    It may take a quarter of the available memory: 0.4 GB for 0.1 billion weights, 28 GB for 7
    billion.
    """
    needed = values * itemsize
    return needed if needed * SHARE <= machine_memory()[1] else 0


@contextmanager
def unpacked_weights(llm: FrozenLLM) -> Iterator[None]:
    """Hold a copy of an LLM's 4-bit matrices in the dtype of its products during the block.

    It does nothing on a GPU, which unpacks quickly, and where memory is short. Blocks may be
    nested.
    """
    layers = [
        module
        for module in llm.model.modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit) and "forward" not in vars(module)
    ]
    values = sum(layer.in_features * layer.out_features for layer in layers)
    itemsize = 2 if llm.config.cpu_precision == "bf16" else 4
    if llm.device.type != "cpu" or not unpacked_bytes(values, itemsize):
        yield
        return
    try:
        for layer in layers:
            weight = bitsandbytes.functional.dequantize_4bit(
                layer.weight.data, layer.weight.quant_state
            )
            layer.forward = partial(linear, weight=weight.to(_dtype_of(layer)), bias=layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # the class's own method again


def _dtype_of(layer: Any) -> torch.dtype:
    """Dtype of the products of a 4-bit layer."""
    dtype: torch.dtype = layer.compute_dtype or torch.float32
    return dtype
