"""Qwen-7B v1 as Qwen2. In: its configuration and tensors. Out: Qwen2's, the same function.

The first Qwen models come with Python code, which is never run. Their architecture is Qwen2's
under other names: RMSNorm, rotary positions in halves, biases on q, k and v alone, and an MLP
`c_proj(w1(x) * silu(w2(x)))`. What their code does beyond `seq_length` positions (scaled attention,
another rotary base) Qwen2 does not, so that becomes the longest row.

Source: `modeling_qwen.py` and `config.json` of Qwen/Qwen-7B-Chat.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config

from rellm_cache.errors import ConfigError
from rellm_cache.importers.checkpoint_source import SourceWeights

# What must hold for the two to be the same function.
EXPECTED = {
    "no_bias": True,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
}
WHOLE = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
IN_BLOCK = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
FUSED = "attn.c_attn."  # q, k and v end to end
BLOCK = "transformer.h."
# Constants that older versions of its code stored; Qwen2 computes them.
CONSTANTS = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.logn_tensor")


def read_qwen_config(folder: Path, config: dict[str, Any]) -> Qwen2Config:
    """Qwen2's configuration of a Qwen v1 checkpoint, `dtype` and end tokens aside.

    Raises:
        ConfigError: it is no Qwen v1 checkpoint, it is quantised, or it is one that Qwen2 cannot
            repeat.
    """
    file = folder / "config.json"
    if config.get("model_type") != "qwen":
        raise ConfigError(
            f"{file}: model_type = {config.get('model_type')!r}; expected 'qwen', the first "
            "version of Qwen: models that transformers knows, as Qwen2, need no import"
        )
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "quantised")
        raise ConfigError(
            f"{file}: the weights are quantised ({method}); expected the plain checkpoint, as "
            "Qwen/Qwen-7B-Chat: rellm quantises it when it is loaded"
        )
    for key, expected in EXPECTED.items():
        if config.get(key, expected) != expected:
            raise ConfigError(
                f"{file}: {key} = {config[key]!r}, expected {expected!r}: Qwen2 has no such model, "
                "so this checkpoint cannot be renamed to it"
            )
    hidden, heads = (
        _number(file, config, "hidden_size"),
        _number(file, config, "num_attention_heads"),
    )
    width, head = _number(file, config, "intermediate_size"), _number(file, config, "kv_channels")
    if heads * head != hidden or width % 2:
        raise ConfigError(
            f"{file}: {heads} heads of {head}, hidden size {hidden}, intermediate size {width}: "
            "expected heads that make up the hidden size, and an even intermediate size"
        )
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=_number(file, config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=width // 2,
        num_hidden_layers=_number(file, config, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=_number(file, config, "seq_length"),
        rms_norm_eps=_number(file, config, "layer_norm_epsilon"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": float(_number(file, config, "rotary_emb_base")),
        },
        use_sliding_window=False,
        tie_word_embeddings=False,
    )


def _number(file: Path, config: dict[str, Any], key: str) -> Any:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(
            f"{file}: {key} = {value!r}, expected a number above 0, as in the checkpoint's current "
            "config.json"
        )
    return value


def check_weights(weights: SourceWeights, config: Qwen2Config) -> torch.dtype:
    """The type of the weights, once every tensor is known to be there and no other.

    Raises:
        ConfigError: a tensor is missing, unexpected, of another shape or type.
    """
    weights.require(expected_shapes(config), lambda name: name.endswith(CONSTANTS))
    types = {weights.dtypes[name] for name in expected_shapes(config)}
    if len(types) > 1:
        raise ConfigError(
            f"{weights.folder}: the weights are of several types, {sorted(map(str, types))}; "
            "expected one"
        )
    return types.pop()


def expected_shapes(config: Qwen2Config) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of the v1 checkpoint that becomes `config`."""
    size, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, size),
        "transformer.ln_f.weight": (size,),
        "lm_head.weight": (config.vocab_size, size),
    }
    for layer in range(config.num_hidden_layers):
        block = {
            "ln_1.weight": (size,),
            "ln_2.weight": (size,),
            f"{FUSED}weight": (3 * size, size),
            f"{FUSED}bias": (3 * size,),
            "attn.c_proj.weight": (size, size),
            "mlp.w1.weight": (inner, size),
            "mlp.w2.weight": (inner, size),
            "mlp.c_proj.weight": (size, inner),
        }
        shapes |= {f"{BLOCK}{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Qwen2's tensors of one v1 tensor: none of a constant, three of `c_attn`, else one."""
    if name.endswith(CONSTANTS):
        return
    if name in WHOLE:
        yield WHOLE[name], tensor.contiguous()
        return
    layer, _, rest = name.removeprefix(BLOCK).partition(".")
    block = f"model.layers.{layer}"
    if rest in IN_BLOCK:
        yield f"{block}.{IN_BLOCK[rest]}", tensor.contiguous()
        return
    part = rest.removeprefix(FUSED)
    # (3 H, H) -> three of (H, H); a bias (3 H,) -> three of (H,). Copies: a file holds no views.
    for which, piece in zip("qkv", tensor.chunk(3), strict=True):
        yield f"{block}.self_attn.{which}_proj.{part}", piece.clone()
