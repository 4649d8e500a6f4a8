"""LoRA on the frozen LLM, with peft's layers, at all positions or at speech positions only.

y = W x + (alpha / rank) B A x (Hu et al., 2021, arXiv 2106.09685) for each target projection. W is
frozen and quantized; A and B train in float32. B starts at zero, so the untrained model equals the
frozen one. With `scope = "speech"`, as in the reference code, the second term is zero at positions
without speech and is not computed there.
"""

import copy
from dataclasses import replace
from typing import Any

import rellm_cache.llm.bitsandbytes_import  # noqa: F401  # before peft, which imports bitsandbytes

# isort: split
import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from rellm_cache.config.schema import LoraConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.speech_mask import SpeechMask

_NAME = "default"  # name of the adapter in peft's layers


class LoRA(nn.Module):
    """The trained modules: A, B and dropout of every target, shared with the LLM's layers.

    Parameter names are peft's without `base_model.model.`, for example
    `model.layers.0.self_attn.q_proj.lora_A.weight`.
    """

    def __init__(self, layers: dict[str, LoraLayer]) -> None:
        super().__init__()
        for path, layer in layers.items():
            place: nn.Module = self
            for name in path.split("."):
                if name not in dict(place.named_children()):
                    place.add_module(name, nn.Module())
                place = place.get_submodule(name)
            for part in ("lora_A", "lora_B", "lora_dropout"):
                place.add_module(part, getattr(layer, part)[_NAME])
        self.float().requires_grad_()


def with_lora(llm: FrozenLLM, config: LoraConfig) -> tuple[FrozenLLM, LoRA]:
    """An LLM with LoRA, and its trained modules; `llm` is unchanged. Raises like `add_lora`."""
    tree = _tree_over_same_leaves(llm.model)
    adapted = FrozenLLM(tree, llm.chat, replace(llm.config, lora=config))
    return adapted, add_lora(adapted.model, adapted.speech_mask, config)


def add_lora(model: Any, speech_mask: SpeechMask, config: LoraConfig) -> LoRA:
    """Add LoRA to the layers of a model in place; with `scope = "speech"` only at `speech_mask`.

    Raises:
        ConfigError: `targets` names a projection that the model does not have.
    """
    decoder = model.get_decoder()
    _require_targets(decoder.get_submodule("layers"), config)
    inject_adapter_in_model(
        PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.targets),
        ),
        model,
        _NAME,
    )
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    if config.scope == "speech":
        speech_mask.attach(decoder)
        for layer in layers.values():
            speech_mask.restrict(layer.lora_dropout[_NAME], layer.lora_B[_NAME])
    return LoRA(layers)


def _tree_over_same_leaves(model: Any) -> Any:
    """A copy of a model's module tree that shares its leaf modules and weights."""
    shared = [m for m in model.modules() if next(m.children(), None) is None]
    return copy.deepcopy(model, {id(m): m for m in (*shared, *model.parameters())})


def _require_targets(layers: nn.Module, config: LoraConfig) -> None:
    found = {
        name.rpartition(".")[2]
        for name, module in layers.named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
        and hasattr(module, "in_features")
    }
    for target in config.targets:
        if target not in found:
            raise ConfigError(
                f"llm.lora.targets: the model has no projection {target!r}; it has "
                f"{', '.join(sorted(found))}"
            )
