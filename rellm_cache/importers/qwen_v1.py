"""Qwen v1 checkpoints (Qwen-7B, Qwen-7B-Chat) converted to Qwen2 model folders.

The first Qwen models ship Python code in their checkpoint, which is never run here. Their
architecture equals Qwen2 with other tensor names: RMSNorm, rotary positions in halves, biases on q,
k and v only, and an MLP `c_proj(w1(x) * silu(w2(x)))`. Beyond `seq_length` positions, Qwen v1
scales attention and changes its rotary base; Qwen2 does not. So `seq_length` becomes the maximum
length.

    <out>/config.json, generation_config.json
    <out>/model-0000I-of-0000N.safetensors, model.safetensors.index.json
    <out>/tokenizer.json, tokenizer_config.json, chat_template.jinja
    <out>/LICENSE, NOTICE                 if the checkpoint has them

Source: `modeling_qwen.py` and `config.json` of Qwen/Qwen-7B-Chat.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.importers.checkpoint_source import CheckpointWeights, find_weights, read_config
from rellm_cache.importers.qwen_tokenizer import (
    RANKS,
    SPECIAL_TOKENS,
    generation_config,
    make_tokenizer,
    read_ranks,
)
from rellm_cache.llm.loading import save_quantized_copy
from rellm_cache.utils.atomic_files import new_folder
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.weight_shards import SHARD_BYTES, ShardedModelWriter

LICENCES = ("LICENSE*", "NOTICE*")
# Settings under which Qwen v1 and Qwen2 are the same function.
EXPECTED = {
    "no_bias": True,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
}
TENSORS = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
BLOCK_TENSORS = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
FUSED = "attn.c_attn."  # q, k and v concatenated
BLOCK = "transformer.h."
# Constants stored by older versions of Qwen v1; Qwen2 computes them.
CONSTANTS = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.logn_tensor")


@dataclass(frozen=True)
class ImportedModel:
    """A converted model."""

    out: Path  # its folder
    parameters: int  # number of parameters
    bytes: int  # size of the weights
    positions: int  # maximum number of positions
    chat: bool  # whether its generation_config.json says that it is a chat model
    copy: Path | None = None  # the copy in 4 bits, if one was kept


def import_qwen(folder: Path, out: Path, shard_bytes: int = SHARD_BYTES) -> ImportedModel:
    """Write a Qwen v1 checkpoint as a native Qwen2 folder.

    Everything is checked before anything is written. One file, and the memory, hold at most
    `shard_bytes` bytes of weights.

    Raises:
        ConfigError: the checkpoint is incomplete, is not Qwen v1, or has no equal Qwen2 model.
        RellmError: `out` is not empty or cannot be written.
    """
    config = read_qwen_config(folder, read_config(folder))
    generation = read_object(
        folder / "generation_config.json", ConfigError, "copy it from the checkpoint"
    )
    chat = generation.get("chat_format") == "chatml"
    ranks = read_ranks(folder / RANKS)
    # Special tokens follow the last rank, so a truncated file would change their ids silently.
    if generation.get("eos_token_id") != len(ranks):
        raise ConfigError(
            f"{folder / RANKS}: found {len(ranks)} tokens, but eos_token_id in "
            f"generation_config.json is {generation.get('eos_token_id')}, expected {len(ranks)}; "
            "copy both files again"
        )
    if len(ranks) + len(SPECIAL_TOKENS) > config.vocab_size:
        raise ConfigError(
            f"{folder / RANKS}: found {len(ranks)} tokens and {len(SPECIAL_TOKENS)} special "
            f"tokens, but vocab_size is {config.vocab_size}; copy the file that belongs to this "
            "checkpoint"
        )
    weights = find_weights(folder)
    config.dtype = check_weights(weights, config)
    shapes = expected_shapes(config)
    with new_folder(out, weights.bytes(shapes)) as temporary:
        writer = ShardedModelWriter(temporary, shard_bytes)
        with progress("Converting", len(weights.files), "files") as tick:
            for file in weights.files:
                for name, tensor in weights.tensors(file):
                    for new_name, new_tensor in rename_tensor(name, tensor):
                        writer.add(new_name, new_tensor)
                tick(1, file.name)
        writer.close()
        tokenizer = make_tokenizer(ranks, chat)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(temporary)
        ends = generation_config(tokenizer, chat)
        config.bos_token_id, config.eos_token_id = ends.bos_token_id, ends.eos_token_id
        ends.save_pretrained(temporary)
        for licence in (f for pattern in LICENCES for f in folder.glob(pattern) if f.is_file()):
            shutil.copyfile(licence, temporary / licence.name)
        config.save_pretrained(temporary)
    return ImportedModel(
        out=out,
        parameters=writer.bytes // config.dtype.itemsize,
        bytes=writer.bytes,
        positions=config.max_position_embeddings,
        chat=chat,
    )


def with_quantized_copy(model: ImportedModel) -> ImportedModel:
    """Quantize a converted model for this machine's device, so that its first start is fast too.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    device = default_device()
    return replace(model, copy=save_quantized_copy(LLMConfig(str(model.out)), device))


def read_qwen_config(folder: Path, config: dict[str, Any]) -> Qwen2Config:
    """The Qwen2 configuration of a Qwen v1 checkpoint, without `dtype` and end tokens.

    Raises:
        ConfigError: the checkpoint is not Qwen v1, is quantized, or has no equal Qwen2 model.
    """
    file = folder / "config.json"
    if config.get("model_type") != "qwen":
        raise ConfigError(
            f"{file}: model_type = {config.get('model_type')!r}; expected 'qwen' (Qwen v1). "
            "Models that transformers knows, such as Qwen2, need no import"
        )
    if "quantization_config" in config:
        raise ConfigError(
            f"{file}: the weights are quantized ({config['quantization_config']}); expected a "
            "checkpoint in full precision, such as Qwen/Qwen-7B-Chat. rellm quantizes it at loading"
        )
    for key, expected in EXPECTED.items():
        if config.get(key, expected) != expected:
            raise ConfigError(
                f"{file}: {key} = {config[key]!r}, expected {expected!r}: no Qwen2 model equals "
                "this checkpoint"
            )
    number = partial(_positive_number, file, config)
    hidden, heads, head = (
        number(key) for key in ("hidden_size", "num_attention_heads", "kv_channels")
    )
    width = number("intermediate_size")
    if heads * head != hidden or width % 2:
        raise ConfigError(
            f"{file}: found {heads} heads of size {head}, hidden_size {hidden}, intermediate_size "
            f"{width}; expected heads times size to be hidden_size, and an even intermediate_size"
        )
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=number("vocab_size"),
        hidden_size=hidden,
        intermediate_size=width // 2,
        num_hidden_layers=number("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=number("seq_length"),
        rms_norm_eps=number("layer_norm_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": float(number("rotary_emb_base"))},
        use_sliding_window=False,
        tie_word_embeddings=False,
    )


def _positive_number(file: Path, config: dict[str, Any], key: str) -> Any:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(
            f"{file}: {key} = {value!r}, expected a number above 0; copy the file again"
        )
    return value


def check_weights(weights: CheckpointWeights, config: Qwen2Config) -> torch.dtype:
    """Check that exactly the expected tensors are present, and return their dtype.

    Raises:
        ConfigError: a tensor is missing or unexpected, or has another shape or dtype.
    """
    weights.check(expected_shapes(config), lambda name: name.endswith(CONSTANTS))
    types = {weights.described[name].dtype for name in expected_shapes(config)}
    if len(types) > 1:
        raise ConfigError(
            f"{weights.folder}: the weights have several dtypes, {sorted(map(str, types))}; "
            "expected one. Convert them to one dtype"
        )
    return types.pop()


def expected_shapes(config: Qwen2Config) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of the Qwen v1 checkpoint for a Qwen2 configuration."""
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


def rename_tensor(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Qwen2 tensors of one Qwen v1 tensor: none for a constant, three for `c_attn`, else one."""
    if name.endswith(CONSTANTS):
        return
    if name in TENSORS:
        yield TENSORS[name], tensor.contiguous()
        return
    layer, _, rest = name.removeprefix(BLOCK).partition(".")
    block = f"model.layers.{layer}"
    if rest in BLOCK_TENSORS:
        yield f"{block}.{BLOCK_TENSORS[rest]}", tensor.contiguous()
        return
    part = rest.removeprefix(FUSED)
    # (3 H, H) -> three (H, H); a bias (3 H,) -> three (H,). Cloned: views cannot be saved.
    for which, piece in zip("qkv", tensor.chunk(3), strict=True):
        yield f"{block}.self_attn.{which}_proj.{part}", piece.clone()
