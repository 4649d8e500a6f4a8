"""Frozen chat LLM: embeddings of tokens and hidden states of packed rows.

The weights are never trained. Gradients pass through the LLM to the speech embeddings.

Letters: T tokens in a row, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm import segment_attention as segments
from rellm_cache.llm.host_activations import host_copies
from rellm_cache.llm.output_matrix import OutputMatrix, QuantizedOutput
from rellm_cache.llm.packed_rows import PackedRow, Segment
from rellm_cache.llm.prefix_cache import PrefixKV, compute_prefix, concat_prefixes
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.llm.speech_mask import SpeechMask


class FrozenLLM:
    """A chat model whose weights never change; `loading.load_llm` makes one."""

    def __init__(self, model: Any, chat: ChatFormat, config: LLMConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.chat = chat
        self.config = config
        self.device: torch.device = self.output_weight.device
        self.hidden_size = int(model.config.hidden_size)
        self.speech_mask = SpeechMask()
        self._embedding = model.get_input_embeddings()
        self._checkpointed = (
            checkpointed_layers(model, config.offload_activations)
            if config.activation_checkpointing
            else []
        )
        self._prefixes: dict[tuple[int, ...], PrefixKV] = {}
        self._positions: int | None = getattr(model.config, "max_position_embeddings", None)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of embeddings and hidden states: float32 on a CPU, bfloat16 on a GPU."""
        dtype: torch.dtype = self._embedding.weight.dtype
        return dtype

    @property
    def output_weight(self) -> OutputMatrix:
        """(V, H) output matrix, which turns hidden states into logits."""
        layer = self.model.get_output_embeddings()
        if isinstance(layer, QuantizedOutput):
            return layer
        weight: Tensor = layer.weight
        return weight

    @property
    def cached_bytes_per_token(self) -> int:
        """Bytes that keys and values of one token take in all layers."""
        shape = self.model.config
        heads = shape.num_attention_heads
        size = getattr(shape, "head_dim", None) or shape.hidden_size // heads
        key_heads = getattr(shape, "num_key_value_heads", None) or heads
        return int(2 * shape.num_hidden_layers * key_heads * size * self.dtype.itemsize)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """(T, H) input embeddings of token ids."""
        table = self._embedding.weight
        self._require_known(ids)
        tokens = torch.tensor(list(ids), dtype=torch.long, device=table.device)  # (T,)
        embeddings: Tensor = self._embedding(tokens)
        return embeddings

    def _require_known(self, ids: Sequence[int]) -> None:
        """Raise `ConfigError` if the model has no embedding of a token."""
        rows = len(self._embedding.weight)
        if (last := max(ids, default=0)) >= rows:
            raise ConfigError(
                f"{self.config.model}: the tokenizer gives token {last} "
                f"({self.chat.tokenizer.convert_ids_to_tokens(last)!r}), but the model has {rows} "
                "tokens; copy tokenizer and weights from the same model"
            )

    def segment(
        self,
        speech: Tensor | None = None,
        ids: Sequence[int] = (),
        answer: Sequence[int] = (),
        parent: int | None = None,
    ) -> Segment:
        """A segment of speech (t, H), then fixed tokens, then an answer; any may be empty."""
        tokens = self.embed((*ids, *answer[:-1]))
        self._require_known(answer[-1:])
        parts = [tokens] if speech is None else [speech.to(tokens.dtype), tokens]
        embeddings = torch.cat(parts)  # (speech + ids + answer - 1, H)
        return Segment(embeddings, tuple(answer), parent, 0 if speech is None else len(speech))

    def prefix_segment(self, ids: Sequence[int]) -> Segment:
        """A prompt at the start of a row, as cached keys and values if the config allows it."""
        if not self.config.caches_prefix_kv:
            return self.segment(ids=ids)
        prefix = self._prefixes.get(tuple(ids))
        if prefix is None:
            prefix = self._prefixes[tuple(ids)] = self.prefix_kv(ids)
        return replace(self.segment(), prefix=prefix)

    def prefix_kv(self, ids: Sequence[int]) -> PrefixKV:
        """Keys and values of tokens at the start of a row."""
        self.require_positions(len(ids))
        self.set_attention("sdpa", checkpointing=False)
        no_speech = torch.zeros(1, len(ids), dtype=torch.bool)
        # Training uses these tensors, so they must not be inference tensors.
        with torch.inference_mode(False), torch.no_grad(), self.speech_mask.set(no_speech):
            embeddings = self.embed(ids)[None]  # (1, P, H)
            return compute_prefix(self.model.get_decoder(), embeddings.to(self.dtype))

    def hidden_states(self, row: PackedRow) -> Tensor:
        """(T, H) last hidden states of a packed row; differentiable with respect to its embeddings.

        Raises:
            ConfigError: an example of the row is longer than the model supports.
        """
        self.require_positions(row.reach)
        kernel, mask_argument = self._attention(row)
        self.set_attention(kernel, torch.is_grad_enabled())
        prefix_speech = row.speech.new_zeros(len(row.prefix_owners))
        with (
            self.speech_mask.set(torch.cat([prefix_speech, row.speech])[None]),
            reading_prefixes(self._checkpointed),
        ):
            output = self.model.get_decoder()(
                inputs_embeds=row.embeddings.to(self.dtype),
                position_ids=row.positions,
                past_key_values=concat_prefixes(row.prefixes),
                use_cache=False,
                **mask_argument,
            )
        hidden: Tensor = output.last_hidden_state[0]  # (1, T, H) -> (T, H)
        return hidden

    def set_attention(self, attention: str, checkpointing: bool) -> None:
        """Set attention and checkpointing for all later layer calls, also in a backward pass."""
        self.model.set_attn_implementation(attention)
        for layer in self._checkpointed:
            layer.training = checkpointing  # the modules inside it stay in evaluation mode

    def has_positions(self, needed: int) -> bool:
        """Whether the model supports `needed` positions."""
        return self._positions is None or needed <= self._positions

    def require_positions(self, needed: int) -> None:
        """Raise `ConfigError` if the model supports fewer than `needed` positions."""
        if not self.has_positions(needed):
            raise ConfigError(
                f"llm.model: prompt, speech and answer take {needed} positions, but "
                f"{self.config.model} supports {self._positions}; leave out long clips, or "
                "lower prompts.answer_tokens or prompts.example_tokens"
            )

    def _attention(self, row: PackedRow) -> tuple[str, dict[str, Any]]:
        """The kernel's name in transformers, and the argument that holds the row's mask."""
        kind = self.config.attention_on(self.device.type)
        if kind == "segments":
            return segments.NAME, {segments.ARGUMENT: segments.segments_of(row, self.dtype)}
        if kind == "flex":
            return "flex_attention", {"attention_mask": row.block_mask()}
        return "sdpa", {"attention_mask": row.bias(self.dtype)}


def require_llm(llm: FrozenLLM | None) -> FrozenLLM:
    """The LLM of a model; `ConfigError` if its recipe has none."""
    if llm is None:
        raise ConfigError(
            "this run has no LLM, so it cannot answer; train with a recipe whose "
            "losses.response_lm or losses.emotion_lm is above 0, as `small`"
        )
    return llm


def checkpointed_layers(model: Any, on_host: bool = False) -> list[GradientCheckpointingLayer]:
    """A model's layers; in training mode they now keep only their inputs for the backward pass.

    Args:
        on_host: whether the inputs are kept in host memory.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    run = partial(checkpoint, use_reentrant=False)
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = host_copies(run) if on_host else run
    return layers


@contextmanager
def reading_prefixes(layers: Sequence[GradientCheckpointingLayer]) -> Iterator[None]:
    """Let checkpointed layers use a `FixedPrefix` in the block: running again, they only read it.

    Outside it they get none: a cache of generation would be written twice.
    """
    for layer in layers:
        layer._can_checkpoint_with_cache = True
    try:
        yield
    finally:
        for layer in layers:
            layer._can_checkpoint_with_cache = False
