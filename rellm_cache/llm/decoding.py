"""Decoding with the frozen LLM: greedy or sampled continuations of prompts, token by token.

Sampling adds Gumbel noise to logits / temperature and takes the largest value (Gumbel-max). This is
a draw from their softmax. Each prompt has its own random generator, so its answer does not depend
on the batch.

Letters: B prompts, T tokens in the longest, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.sentence_limit import NO_LIMIT, ReplyLimit

Watch = Callable[[list[str]], None]  # gets the text of each prompt so far, after each token


@dataclass(frozen=True)
class Continuation:
    """A generated text without end tokens and outer spaces.

    Attributes:
        early_stop: whether the token limit cut it.
        ids: the generated token ids before the end token; a reply limit cuts only the text.
    """

    text: str
    early_stop: bool
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Sampling of a batch: a temperature above 0, and a seed for each prompt."""

    temperature: float
    seeds: Sequence[int]


@torch.inference_mode()
def continue_prompts(
    llm: FrozenLLM,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    speech: Sequence[Sequence[range]] = (),
    limit: ReplyLimit = NO_LIMIT,
    sampling: Sampling | None = None,
    watch: Watch | None = None,
) -> list[Continuation]:
    """Continue prompts; the result of each does not depend on the others.

    Args:
        prompts: embeddings (t, H).
        speech: positions of each speech in each prompt; empty if no prompt has any.
        sampling: None for greedy decoding.
        watch: is called after each token; an error that it raises ends the decoding.

    Raises:
        ConfigError: a prompt and its answer are longer than the model supports.
    """
    llm.set_attention("sdpa", checkpointing=False)  # generation has its own key/value cache
    longest = max(len(p) for p in prompts)
    llm.require_positions(longest + max_new_tokens)
    shape = (len(prompts), longest)
    embeddings = torch.zeros(*shape, llm.hidden_size, dtype=llm.dtype, device=llm.device)
    mask = torch.zeros(*shape, dtype=torch.long, device=llm.device)
    for index, prompt in enumerate(prompts):  # padded on the left: (B, T, H), (B, T)
        embeddings[index, longest - len(prompt) :] = prompt.to(llm.dtype)
        mask[index, longest - len(prompt) :] = 1
    is_speech = torch.zeros(*shape, dtype=torch.bool, device=llm.device)  # (B, T)
    for index, spans in enumerate(speech):
        padding = longest - len(prompts[index])
        for span in spans:
            is_speech[index, padding + span.start : padding + span.stop] = True
    stops = llm.chat.stop_ids
    stopping: list[StoppingCriteria] = []
    if limit != NO_LIMIT:
        stopping.append(LimitReached(limit, llm.chat.tokenizer))
    if watch is not None:
        stopping.append(Watching(watch, llm, limit))
    with llm.speech_mask.set(is_speech):
        generated = llm.model.generate(
            inputs_embeds=embeddings,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=stops[0],
            stopping_criteria=stopping,
            logits_processor=[] if sampling is None else [GumbelNoise(sampling)],
        )
    return [_continuation(llm, ids, stops, limit) for ids in generated.tolist()]


def _continuation(
    llm: FrozenLLM, ids: list[int], stops: Sequence[int], limit: ReplyLimit
) -> Continuation:
    own, text = _before_end(llm, ids, stops)
    reply = limit.cut(text)
    cut = len(own) == len(ids) and reply == text
    return Continuation(reply.strip(), early_stop=cut, ids=tuple(own))


def _before_end(llm: FrozenLLM, ids: list[int], stops: Sequence[int]) -> tuple[list[int], str]:
    """Generated ids before the first end token, and their text."""
    length = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    text = llm.chat.tokenizer.decode(ids[:length], skip_special_tokens=True)
    return ids[:length], text


class Watching(StoppingCriteria):
    """Shows the text of each row so far; it never stops a row."""

    def __init__(self, watch: Watch, llm: FrozenLLM, limit: ReplyLimit) -> None:
        self._watch, self._llm, self._limit = watch, llm, limit
        self._stops = llm.chat.stop_ids

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(B,) bool, all false, for generated ids (B, T)."""
        texts = [_before_end(self._llm, ids, self._stops)[1] for ids in input_ids.tolist()]
        # A character of several tokens is shown when it is complete.
        self._watch([self._limit.cut(text).rstrip("\ufffd").strip() for text in texts])
        return torch.zeros(len(texts), dtype=torch.bool, device=input_ids.device)


class LimitReached(StoppingCriteria):
    """Stops each generated row when its text has passed a reply limit."""

    def __init__(self, limit: ReplyLimit, tokenizer: Any) -> None:
        self._limit = limit
        self._tokenizer = tokenizer

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(B,) bool for generated ids (B, T)."""
        texts: Sequence[str] = self._tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        past = [self._limit.cut(text) != text for text in texts]
        return torch.tensor(past, dtype=torch.bool, device=input_ids.device)


class GumbelNoise(LogitsProcessor):
    """Adds Gumbel noise to each row's scores, so that greedy decoding samples."""

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = sampling.temperature
        self._generators = [torch.Generator().manual_seed(seed) for seed in sampling.seeds]

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        """Scores (B, V) with noise added."""
        size = scores.shape[1]
        uniform = torch.stack(
            [torch.rand(size, generator=g, dtype=torch.float64) for g in self._generators]
        )  # (B, V)
        noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        return scores / self._temperature + noise.to(scores)
