"""Random weights for an LLM whose shape is known: size and speed of the model, without its files.

A matrix of each shape is made and quantized once, and copied for the other layers. So a 7 B model
in 4 bits takes seconds, and no more memory than when its real weights are loaded.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.integrations import replace_with_bnb_linear

from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import (
    compute_dtype,
    freeze,
    keep_weights_unpacked,
    quantization_settings,
)
from rellm_cache.llm.prompts import ChatFormat

SCALE = 0.02  # standard deviation of the weights
SEED = 1


def random_llm(
    config: LLMConfig, shape: PreTrainedConfig, chat: ChatFormat, device: torch.device
) -> FrozenLLM:
    """An LLM of a shape with random weights, as `load_llm` would give it with real ones.

    Args:
        config: quantization and options of the LLM; its name stands in messages only.
        chat: prompts and tokenizer, whose tokens the shape must have.

    Raises:
        ConfigError: an option needs an output matrix that is not the input embeddings.
    """
    dtype = compute_dtype(device)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            shape, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
    model.name_or_path = config.model
    output = model.get_output_embeddings()
    if settings := quantization_settings(config, dtype):
        kept = [name for name, module in model.named_modules() if module is output]
        replace_with_bnb_linear(model, kept, settings)
    model.requires_grad_(False)
    linear = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not output
    }
    generator = torch.Generator(device).manual_seed(SEED)
    for module in set(model.modules()).difference(linear.values()):
        module.to_empty(device=device, recurse=False)
    made: dict[tuple[object, ...], nn.Module] = {}
    for name, module in linear.items():
        key = (type(module), module.in_features, module.out_features, module.bias is None)
        if key in made:
            model.set_submodule(name, copy.deepcopy(made[key]))
        else:
            made[key] = _fill(module, device, dtype, generator)
    _initialize(model, set(linear))
    keep_weights_unpacked(model)
    return freeze(model, chat, config, device)


def _fill(
    layer: Any, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> nn.Module:
    """Give a linear layer on the meta device random weights, quantized if its kind is."""

    def values(*size: int) -> torch.Tensor:
        return SCALE * torch.randn(*size, generator=generator, device=device, dtype=dtype)

    weights, old = values(layer.out_features, layer.in_features), layer.weight
    if type(old) is nn.Parameter:
        layer.weight = nn.Parameter(weights, requires_grad=False)
    else:  # bitsandbytes quantizes when the weights come to a device
        layer.weight = type(old)(weights, requires_grad=False, **vars(old)).to(device)
    if layer.bias is not None:
        layer.bias = nn.Parameter(values(layer.out_features), requires_grad=False)
    filled: nn.Module = layer
    return filled


def _initialize(model: Any, done: set[str]) -> None:
    """Set embeddings, norms, positions and the output matrix as the architecture starts them."""
    for name, module in model.named_modules():
        if name not in done:
            model._init_weights(module)
    model.tie_weights()
