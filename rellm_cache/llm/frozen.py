"""The frozen chat LLM. In: a loaded chat model. Out: embeddings, hidden states, continuations.

Nothing of it ever trains; gradients pass through it to the speech embeddings. `loading` makes one.

Letters: T tokens in a row, H hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from rellm_cache.config.schema import LLMConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm import segment_attention as segments
from rellm_cache.llm.packing import PackedRow, Remembered, Segment
from rellm_cache.llm.prompts import ChatFormat
from rellm_cache.llm.reply_limit import NO_LIMIT, LimitReached, ReplyLimit
from rellm_cache.llm.sampling import Sampling, SeededNoise
from rellm_cache.llm.speech_mask import SpeechScope


@dataclass(frozen=True)
class Continuation:
    """A generated response.

    Attributes:
        text: without end tokens, stripped.
        early_stop: the token limit cut it.
    """

    text: str
    early_stop: bool


class FrozenLLM:
    """A chat model that answers but never changes."""

    def __init__(self, model: Any, chat: ChatFormat, config: LLMConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.chat = chat
        self.config = config
        self.device: torch.device = self.output_weight.device
        self.hidden_size = int(model.config.hidden_size)
        self.scope = SpeechScope()
        self._embedding = model.get_input_embeddings()
        self._checkpointed = checkpointed_layers(model) if config.checkpoint_activations else []
        self._remembered: dict[tuple[int, ...], Remembered] = {}
        self._positions: int | None = getattr(model.config, "max_position_embeddings", None)

    @property
    def dtype(self) -> torch.dtype:
        """Of embeddings and hidden states: float32 on a CPU, bfloat16 on a GPU."""
        dtype: torch.dtype = self._embedding.weight.dtype
        return dtype

    @property
    def output_weight(self) -> Tensor:
        """(V, H) rows that turn a hidden state into logits."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def embed(self, ids: Sequence[int]) -> Tensor:
        """(T, H) input embeddings of token ids."""
        table = self._embedding.weight
        tokens = torch.tensor(list(ids), dtype=torch.long, device=table.device)  # (T,)
        embeddings: Tensor = self._embedding(tokens)
        return embeddings

    def segment(
        self,
        speech: Tensor | None = None,
        ids: Sequence[int] = (),
        answer: Sequence[int] = (),
        parent: int | None = None,
    ) -> Segment:
        """Speech (t, H), then fixed tokens, then an answer with its loss; any may be empty."""
        tokens = self.embed((*ids, *answer[:-1]))
        parts = [tokens] if speech is None else [speech.to(tokens.dtype), tokens]
        embeddings = torch.cat(parts)  # (speech + ids + answer - 1, H)
        return Segment(embeddings, tuple(answer), parent, 0 if speech is None else len(speech))

    def opening(self, ids: Sequence[int]) -> Segment:
        """A prompt that rows begin with: computed once and remembered, where that can be.

        Elsewhere it is a segment like any other (`LLMConfig.remembers_prompts`).
        """
        if not self.config.remembers_prompts:
            return self.segment(ids=ids)
        known = self._remembered.get(tuple(ids))
        if known is None:
            known = self._remembered[tuple(ids)] = self._remember(ids)
        return replace(self.segment(), remembered=known)

    def _remember(self, ids: Sequence[int]) -> Remembered:
        self._require_positions(len(ids))
        self._run_as("sdpa", checkpointing=False)
        cache = DynamicCache()
        # Not inference tensors: what is made of them takes part in training.
        with torch.inference_mode(False), torch.no_grad():
            embeddings = self.embed(ids)[None]  # (1, P, H)
            with self.scope.at(torch.zeros(1, len(ids), dtype=torch.bool)):
                self.model.get_decoder()(
                    inputs_embeds=embeddings.to(self.dtype), past_key_values=cache, use_cache=True
                )
        return Remembered(tuple((layer.keys, layer.values) for layer in cache.layers))

    def hidden_states(self, row: PackedRow) -> Tensor:
        """(T, H) last hidden states of a packed row; differentiable in its embeddings.

        Raises:
            ConfigError: an example of the row is longer than the model was made for.
        """
        self._require_positions(row.reach)
        kernel, seen = self._attention(row)
        self._run_as(kernel, torch.is_grad_enabled())
        silent = row.speech.new_zeros(len(row.owners))
        with self.scope.at(torch.cat([silent, row.speech])[None]):
            output = self.model.get_decoder()(
                inputs_embeds=row.embeddings.to(self.dtype),
                position_ids=row.positions,
                past_key_values=keys_and_values(row.remembered),
                use_cache=False,
                **seen,
            )
        hidden: Tensor = output.last_hidden_state[0]  # (1, T, H) -> (T, H)
        return hidden

    @torch.inference_mode()
    def continue_greedily(
        self,
        prompts: Sequence[Tensor],
        max_new_tokens: int,
        speech: Sequence[range] = (),
        limit: ReplyLimit = NO_LIMIT,
        sampling: Sampling | None = None,
    ) -> list[Continuation]:
        """Greedy continuations of prompts (t, H) given as embeddings, each as if it were alone.

        Args:
            speech: positions of the speech in each prompt; empty where no prompt has any.
            limit: where a reply ends before the LLM ends it.
            sampling: noise under which the greedy choice is a draw; None for none.

        Raises:
            ConfigError: a prompt and its answer would be longer than the model was made for.
        """
        self._run_as("sdpa", checkpointing=False)  # with keys and values of earlier tokens
        longest = max(len(p) for p in prompts)
        self._require_positions(longest + max_new_tokens)
        shape = (len(prompts), longest)
        embeddings = torch.zeros(*shape, self.hidden_size, dtype=self.dtype, device=self.device)
        mask = torch.zeros(*shape, dtype=torch.long, device=self.device)
        for index, prompt in enumerate(prompts):  # padded on the left: (B, T, H), (B, T)
            embeddings[index, longest - len(prompt) :] = prompt.to(self.dtype)
            mask[index, longest - len(prompt) :] = 1
        heard = torch.zeros(*shape, dtype=torch.bool, device=self.device)  # (B, T)
        for index, span in enumerate(speech):
            before = longest - len(prompts[index])
            heard[index, before + span.start : before + span.stop] = True
        stops = self.chat.stop_ids
        with self.scope.at(heard):
            generated = self.model.generate(
                inputs_embeds=embeddings,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=stops[0],
                stopping_criteria=(
                    [] if limit == NO_LIMIT else [LimitReached(limit, self.chat.tokenizer)]
                ),
                logits_processor=[] if sampling is None else [SeededNoise(sampling)],
            )
        return [self._continuation(ids, set(stops), limit) for ids in generated.tolist()]

    def _attention(self, row: PackedRow) -> tuple[str, dict[str, Any]]:
        """The kernel, as transformers names it, and what tells it who sees whom in a row."""
        kind = self.config.attention_on(self.device.type)
        if kind == "segments":
            return segments.NAME, {segments.ARGUMENT: segments.segments_of(row, self.dtype)}
        if kind == "flex":
            return "flex_attention", {"attention_mask": row.block_mask()}
        return "sdpa", {"attention_mask": row.bias(self.dtype)}

    def _run_as(self, attention: str, checkpointing: bool) -> None:
        """Choose how the layers run from here on: also when a backward pass runs them again."""
        self.model.set_attn_implementation(attention)
        for layer in self._checkpointed:
            layer.training = checkpointing  # of the layer alone: its modules stay in evaluation

    def _require_positions(self, needed: int) -> None:
        if self._positions is not None and needed > self._positions:
            raise ConfigError(
                f"llm.model: prompt, speech and answer take {needed} positions, but "
                f"{self.config.model} was made for {self._positions}; leave out long clips, or "
                "lower prompts.answer_tokens or prompts.example_tokens"
            )

    def _continuation(self, ids: list[int], stops: set[int], limit: ReplyLimit) -> Continuation:
        length = next((i for i, token in enumerate(ids) if token in stops), len(ids))
        text = self.chat.tokenizer.decode(ids[:length], skip_special_tokens=True)
        reply = limit.cut(text)
        return Continuation(reply.strip(), early_stop=length == len(ids) and reply == text)


def keys_and_values(prompts: Sequence[Remembered]) -> DynamicCache | None:
    """Those of prompts, one after another, for one forward call; None of none."""
    if not prompts:
        return None
    layers = zip(*(prompt.layers for prompt in prompts), strict=True)
    return DynamicCache(
        [tuple(torch.cat(t, 2) for t in zip(*pairs, strict=True)) for pairs in layers]
    )


def checkpointed_layers(model: Any) -> list[GradientCheckpointingLayer]:
    """Its layers, made to keep only their inputs for the backward pass while they are training."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    return layers
