"""bfloat16 products with an LLM's weights on a CPU; all other arithmetic stays in float32.

Processors with AVX512-BF16 or AMX multiply bfloat16 numbers about twice as fast as float32 ones,
and read half as many bytes. Norms, attention, residual sums, embeddings and losses are not rounded.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.utils.console import say_once
from rellm_cache.utils.devices import BF16_FLAGS, cpu_flags


def compute_products_in_bf16(model: Any) -> None:
    """Let the linear layers of a float32 model on a CPU multiply in bfloat16.

    4-bit layers unpack to bfloat16. Weights that are not quantized become bfloat16, but for the
    output matrix: losses use it in float32, and its logits of answers come from a copy (V x H x 2
    bytes). Layers of 8-bit integers and an output matrix in 4 bits stay as they are.
    """
    _tell_where_it_is_slow()
    output = model.get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.compute_dtype, layer.compute_type_is_set = torch.bfloat16, True
        elif type(layer) is nn.Linear:
            weight = layer.weight.detach().to(torch.bfloat16)
            if layer is not output:
                layer.weight.data = weight
            vars(layer)["forward"] = partial(linear, weight=weight, bias=layer.bias)


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer in the dtype of its weight; the result has that of the inputs."""
    bias = None if bias is None else bias.to(weight.dtype)
    return F.linear(inputs.to(weight.dtype), weight, bias).to(inputs.dtype)


def _tell_where_it_is_slow() -> None:
    """Say once if the processor has no instructions for bfloat16, as far as it names them."""
    flags = cpu_flags()
    if flags and flags.isdisjoint(BF16_FLAGS):
        say_once(
            f'llm.cpu_precision = "bf16": this processor has none of {", ".join(BF16_FLAGS)}, so '
            'products are slow; "fp32" is faster here'
        )
