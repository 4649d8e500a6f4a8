"""What a frozen LLM takes. In: its config alone. Out: bytes and operations, nothing loaded.

The model is built without data (torch's `meta` device) and run forward there, so that what the
backward pass keeps is counted and not guessed: for any architecture, layer by layer. Attention is
counted as a memory-efficient kernel keeps it: queries, keys, values, output and one sum a query;
over a whole row with keys and values for each query head, over segments with those there are.
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
from rellm_cache.llm.speech_mask import SpeechMask
from rellm_cache.utils.model_files import find_config

WIDE_GRADIENTS = 3  # at one time: of gate, up and their product
TOKENS = 64  # of the row that is counted; what is kept grows with its length
# NF4 with double quantisation: half a byte a value, a byte for 64 of them, 4 bytes for 256 such.
BYTES_A_WEIGHT = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}


@dataclass(frozen=True)
class Footprint:
    """Of one frozen LLM.

    Attributes:
        device_bytes: weights on the device.
        host_bytes: weights kept in host memory.
        linear_parameters: multiplied with every token: 2 operations each, forward.
        attention: the kernel over rows: "segments", "sdpa" or "flex".
        kept_bytes: for each token of a row, kept for the backward pass.
        seen_bytes: for each token that a segment continues, which it keeps a copy of; else 0.
        passing_bytes: for each token, of the layer that is run again, with checkpointing: what it
            keeps, and three gradients of the widest values within it; else 0.
        lora_kept_bytes: for each token that LoRA changes, kept on top; 0 without LoRA.
        lora_passing_bytes: the same of the layer that is run again, with checkpointing.
        largest_matrix: values of the largest quantised matrix, which is unpacked to be used.
        lora_parameters: that the recipe's LoRA adds; 0 without.
        value_bytes: of a value that it computes with.
        hidden_size: H.
        vocabulary: V.
    """

    device_bytes: int
    host_bytes: int
    linear_parameters: int
    attention: str
    kept_bytes: float
    seen_bytes: float
    passing_bytes: float
    lora_kept_bytes: float
    lora_passing_bytes: float
    largest_matrix: int
    lora_parameters: int
    value_bytes: int
    hidden_size: int
    vocabulary: int


def footprint(config: LLMConfig, dtype: torch.dtype) -> Footprint:
    """Count what a recipe's LLM takes.

    The bias of attention, T values for each of T tokens in a row, is not among the kept bytes. Of
    LoRA's dropout 4 bytes a value are counted, as a CPU keeps them; a GPU keeps one.

    Args:
        dtype: that it computes in: bfloat16 on a GPU, float32 on a CPU.

    Raises:
        ConfigError: the model's config cannot be found.
    """
    shape = AutoConfig.from_pretrained(find_config(config.model, config.revision))
    attention = config.attention_on("cpu" if dtype == torch.float32 else "cuda")
    by_segment = attention == "segments"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            shape, dtype=dtype, attn_implementation=_counted_attention(repeats=not by_segment)
        )
    model.eval().requires_grad_(False)
    output = model.get_output_embeddings()
    table = model.get_input_embeddings().weight
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m is not output]
    quantised = sum(m.weight.numel() for m in linear)
    value = dtype.itemsize
    packed = BYTES_A_WEIGHT.get(config.quantization, float(value))
    rest = sum(p.numel() for p in model.parameters()) - quantised
    on_host = table.numel() if config.offload_embeddings else 0
    largest = max(m.weight.numel() for m in linear) if packed < value else 0
    checkpoint = config.activation_checkpointing
    kept, passing = _kept_bytes(model, dtype, checkpoint)
    lora_kept = lora_passing = 0.0
    lora_parameters = 0
    if config.lora:
        speech_mask = SpeechMask()
        with torch.device("meta"):
            lora = add_lora(model, speech_mask, config.lora)
        lora_parameters = sum(p.numel() for p in lora.parameters())
        with speech_mask.set(torch.ones(1, TOKENS, dtype=torch.bool)):
            with_lora = _kept_bytes(model, dtype, checkpoint)
        lora_kept, lora_passing = with_lora[0] - kept, with_lora[1] - passing
    return Footprint(
        device_bytes=int(quantised * packed) + (rest - on_host) * value,
        host_bytes=on_host * value,
        linear_parameters=quantised,
        attention=attention,
        kept_bytes=kept,
        seen_bytes=_keys_and_values(model) * value if by_segment and not checkpoint else 0.0,
        passing_bytes=passing,
        lora_kept_bytes=lora_kept,
        lora_passing_bytes=lora_passing,
        largest_matrix=largest,
        lora_parameters=lora_parameters,
        value_bytes=value,
        hidden_size=int(shape.hidden_size),
        vocabulary=int(table.shape[0]),
    )


def _kept_bytes(model: Any, dtype: torch.dtype, checkpoint: bool) -> tuple[float, float]:
    """For each token of a row: what a backward pass keeps; what a layer run again keeps, if any."""
    kept = _run(model, dtype)
    if not checkpoint:
        return kept, 0.0
    layers = checkpointed_layers(model)
    for layer in layers:
        layer.training = True
    inputs = _run(model, dtype)
    for layer in layers:
        layer.training = False
    gradients = WIDE_GRADIENTS * model.config.intermediate_size * dtype.itemsize
    return inputs, kept / len(layers) + gradients


def _keys_and_values(model: Any) -> int:
    """Values of the keys and values of one token in all layers."""
    layers = model.get_decoder().layers
    return sum(m.out_features for la in layers for m in (la.self_attn.k_proj, la.self_attn.v_proj))


def _run(model: Any, dtype: torch.dtype) -> float:
    size = model.config.hidden_size
    row = torch.empty(1, TOKENS, size, dtype=dtype, device="meta", requires_grad=True)
    positions = torch.empty(1, TOKENS, dtype=torch.long, device="meta")
    mask = torch.empty(1, 1, TOKENS, TOKENS, dtype=dtype, device="meta")
    with kept_by(model) as kept:
        model.get_decoder()(
            inputs_embeds=row, attention_mask=mask, position_ids=positions, use_cache=False
        )
    return kept() / TOKENS


@contextmanager
def kept_by(module: nn.Module) -> Iterator[Callable[[], int]]:
    """Counts the bytes that forward passes within keep for a backward pass, weights left out."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # tensors are held: an address must not come twice

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield lambda: sum(size for size, _ in kept.values())


class _EfficientAttention(torch.autograd.Function):
    """Keeps what a memory-efficient attention kernel keeps; computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)  # (1, heads, T, D)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out


def _counted_attention(repeats: bool) -> str:
    """The name under which transformers finds `_EfficientAttention`.

    Args:
        repeats: whether each query head is given keys and values of its own.
    """

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1] if repeats else 1
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        out: Tensor = _EfficientAttention.apply(query, key, value)  # type: ignore[no-untyped-call]  # torch's apply is untyped
        return out.transpose(1, 2).contiguous(), None  # (1, heads, T, D) -> (1, T, heads, D)

    AttentionInterface.register("rellm-counted", attend)
    return "rellm-counted"
