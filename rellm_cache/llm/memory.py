"""Memory footprint of a frozen LLM, computed from its config without loading weights.

A forward pass on torch's `meta` device counts the activations that the backward pass keeps, for any
architecture. For attention, it counts what a memory-efficient kernel keeps: queries, keys,
values, output and one sum per query. Attention over a whole row repeats keys and values for
each query head; attention over segments does not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from rellm_cache.config.schema import LLMConfig
from rellm_cache.llm.frozen import checkpointed_layers
from rellm_cache.llm.lora import add_lora
from rellm_cache.llm.output_matrix import BLOCK, require_untied
from rellm_cache.llm.speech_mask import SpeechMask
from rellm_cache.utils.model_files import find_config, model_errors

WIDE_GRADIENTS = 3  # MLP gradients in memory at a time: of gate, up and their product
WINDOW = 2  # inputs of layers on the device: of the one that runs again, and the next one's
TOKENS = 64  # length of the counted row; activations grow in proportion
# NF4 with double quantization: half a byte per value, 1 byte per 64 values, 4 bytes per 256 * 64.
BYTES_PER_WEIGHT = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}


@dataclass(frozen=True)
class Footprint:
    """Memory and operations of one frozen LLM.

    Attributes:
        device_bytes: weights on the device.
        host_bytes: weights in host memory.
        linear_parameters: weights of linear layers; 2 operations each per token and forward pass.
        activation_bytes: kept for the backward pass, per token of a row.
        copied_kv_bytes: keys and values that a segment copies, per token of its parents; else 0.
        recompute_bytes: with checkpointing, activations of the layer that runs again and three
            gradients of its MLP, per token; else 0.
        lora_activation_bytes: kept in addition, per token that LoRA changes; 0 without LoRA.
        lora_recompute_bytes: the same for the layer that runs again, with checkpointing.
        window_bytes: with checkpointed inputs in host memory, those on the device at a time, per
            token of a row; else 0.
        output_rows: rows of the output matrix that are unpacked at a time; 0 if it is as it is.
        largest_matrix: size of the largest quantized matrix, in values; it is dequantized for use.
        value_bytes: bytes of a value in computations.
    """

    device_bytes: int
    host_bytes: int
    linear_parameters: int
    attention: str
    activation_bytes: float
    copied_kv_bytes: float
    recompute_bytes: float
    lora_activation_bytes: float
    lora_recompute_bytes: float
    window_bytes: float
    output_rows: int
    largest_matrix: int
    lora_parameters: int
    value_bytes: int
    hidden_size: int
    vocabulary: int


def estimate_footprint(config: LLMConfig, dtype: torch.dtype) -> Footprint:
    """Count the memory of a recipe's LLM.

    The attention bias (T values for each of T tokens) is not included. LoRA's dropout counts 4
    bytes per value, as on a CPU; a GPU keeps 1.

    Args:
        dtype: dtype of computations: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ConfigError: the model's config cannot be found or used, or an option does not allow
            that its output matrix is its input embeddings.
    """
    path = find_config(config.model, config.revision)
    with model_errors(path.parent):
        shape = AutoConfig.from_pretrained(path, trust_remote_code=False)
    attention = config.attention_on("cpu" if dtype == torch.float32 else "cuda")
    by_segment = attention == "segments"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            shape,
            dtype=dtype,
            attn_implementation=_counted_attention(repeats=not by_segment),
            trust_remote_code=False,
        )
    model.eval().requires_grad_(False)
    output = model.get_output_embeddings()
    table = model.get_input_embeddings().weight
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not output]
    quantized = sum(m.weight.numel() for m in linear)
    value = dtype.itemsize
    packed = BYTES_PER_WEIGHT.get(config.quantization, float(value))
    rest = sum(p.numel() for p in model.parameters()) - quantized
    on_host = table.numel() if config.offload_embeddings else 0
    for option in ("offload_embeddings", "quantize_output"):
        if getattr(config, option):
            require_untied(model, option, config.model)
    packed_output = output.weight.numel() if config.quantize_output else 0
    largest = max(m.weight.numel() for m in linear) if packed < value else 0
    checkpoint = config.activation_checkpointing
    kept, recomputed = _activation_bytes(model, dtype, checkpoint)
    plain = kept
    inputs = shape.hidden_size * value  # of a layer, per token
    if config.offload_activations:
        kept -= shape.num_hidden_layers * inputs
    lora_kept = lora_recomputed = 0.0
    lora_parameters = 0
    if config.lora:
        speech_mask = SpeechMask()
        with torch.device("meta"):
            lora = add_lora(model, speech_mask, config.lora)
        lora_parameters = sum(p.numel() for p in lora.parameters())
        with speech_mask.set(torch.ones(1, TOKENS, dtype=torch.bool)):
            with_lora = _activation_bytes(model, dtype, checkpoint)
        lora_kept, lora_recomputed = with_lora[0] - plain, with_lora[1] - recomputed
    return Footprint(
        device_bytes=int(quantized * packed + packed_output * BYTES_PER_WEIGHT["nf4"])
        + (rest - on_host - packed_output) * value,
        host_bytes=on_host * value,
        linear_parameters=quantized,
        attention=attention,
        activation_bytes=kept,
        copied_kv_bytes=_keys_and_values(model) * value if by_segment and not checkpoint else 0.0,
        recompute_bytes=recomputed,
        lora_activation_bytes=lora_kept,
        lora_recompute_bytes=lora_recomputed,
        window_bytes=WINDOW * inputs if config.offload_activations else 0.0,
        output_rows=min(BLOCK, int(table.shape[0])) if config.quantize_output else 0,
        largest_matrix=largest,
        lora_parameters=lora_parameters,
        value_bytes=value,
        hidden_size=int(shape.hidden_size),
        vocabulary=int(table.shape[0]),
    )


def _activation_bytes(model: Any, dtype: torch.dtype, checkpoint: bool) -> tuple[float, float]:
    """Bytes per token: kept for the backward pass, and of a layer that runs again (else 0)."""
    kept = _bytes_per_token(model, dtype)
    if not checkpoint:
        return kept, 0.0
    layers = checkpointed_layers(model)
    for layer in layers:
        layer.training = True
    inputs = _bytes_per_token(model, dtype)
    for layer in layers:
        layer.training = False
    gradients = WIDE_GRADIENTS * model.config.intermediate_size * dtype.itemsize
    return inputs, kept / len(layers) + gradients


def _keys_and_values(model: Any) -> int:
    """Number of values in the keys and values of one token, over all layers."""
    layers = model.get_decoder().layers
    return sum(m.out_features for la in layers for m in (la.self_attn.k_proj, la.self_attn.v_proj))


def _bytes_per_token(model: Any, dtype: torch.dtype) -> float:
    size = model.config.hidden_size
    row = torch.empty(1, TOKENS, size, dtype=dtype, device="meta", requires_grad=True)
    positions = torch.empty(1, TOKENS, dtype=torch.long, device="meta")
    mask = torch.empty(1, 1, TOKENS, TOKENS, dtype=dtype, device="meta")
    with count_saved_bytes(model) as kept:
        model.get_decoder()(
            inputs_embeds=row, attention_mask=mask, position_ids=positions, use_cache=False
        )
    return kept() / TOKENS


@contextmanager
def count_saved_bytes(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Count the bytes, except weights, that forward passes in the block keep for backward."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # holds the tensors, so that no address is reused

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield lambda: sum(size for size, _ in kept.values())


class _EfficientAttention(torch.autograd.Function):
    """Saves what a memory-efficient attention kernel saves; computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)  # (1, heads, T, D)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out


def _counted_attention(repeats: bool) -> str:
    """Register `_EfficientAttention`; `repeats`: keys and values are copied for each query head."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1] if repeats else 1
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        out: Tensor = _EfficientAttention.apply(query, key, value)  # type: ignore[no-untyped-call]  # torch's apply is untyped
        return out.transpose(1, 2).contiguous(), None  # (1, heads, T, D) -> (1, T, heads, D)

    AttentionInterface.register("rellm-counted", attend)
    return "rellm-counted"
