"""Decoding with the frozen LLM: greedy or sampled continuations of prompts, token by token.

Continuous batching: a prompt takes the place of an answer that has ended, so no computation is
spent on finished answers. What all prompts begin with is computed once. On a CPU, 4-bit weights are
unpacked once for all tokens (`unpacked_weights`).

Sampling adds Gumbel noise to logits / temperature and takes the largest value (Gumbel-max). This is
a draw from their softmax. Each prompt has its own random generator, so its answer does not depend
on the batch.

Letters: n prompts of a call, A answers being written, P tokens of the shared prefix, T tokens of
the longest prompt, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.prefix_cache import PrefixKV
from rellm_cache.llm.sentence_limit import NO_LIMIT, ReplyLimit
from rellm_cache.llm.slot_cache import SlotCache, repeat_prefix
from rellm_cache.llm.unpacked_weights import unpacked_weights
from rellm_cache.utils.devices import memory_budget

Watch = Callable[[list[str]], None]  # gets the text of each prompt so far, after each token

REFILL = 4  # free slots are filled when at least a quarter of them is free


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

    @property
    def row(self) -> dict[str, Any]:
        """What a table of replies keeps of it."""
        return {"text": self.text, "early_stop": self.early_stop}


@dataclass(frozen=True)
class Sampling:
    """Sampling of a batch: a temperature above 0, and a seed for each prompt."""

    temperature: float
    seeds: Sequence[int]


@dataclass(frozen=True)
class Request:
    """One prompt to continue.

    Attributes:
        embeddings: (t, H), without the prefix that all prompts share; t is at least 1.
        speech: positions of each speech in `embeddings`.
        seed: seed of its sampling; None for greedy decoding.
    """

    embeddings: Tensor
    speech: Sequence[range] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Ending:
    """When an answer ends, besides its end token, and how its tokens are chosen."""

    max_new_tokens: int
    limit: ReplyLimit = NO_LIMIT
    temperature: float = 1.0  # of requests with a seed


@dataclass
class _Row:
    """An answer that is being written in a slot."""

    index: int
    generator: torch.Generator | None
    ids: list[int] = field(default_factory=list)


def continue_prompts(
    llm: FrozenLLM,
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    speech: Sequence[Sequence[range]] = (),
    limit: ReplyLimit = NO_LIMIT,
    sampling: Sampling | None = None,
    watch: Watch | None = None,
    prefix: PrefixKV | None = None,
) -> list[Continuation]:
    """Continue prompts in one batch; the result of each does not depend on the others.

    Args:
        prompts: embeddings (t, H), without the prefix.
        speech: positions of each speech in each prompt; empty if no prompt has any.
        sampling: None for greedy decoding.
        watch: is called after each token; an error that it raises ends the decoding.
        prefix: keys and values of what all prompts begin with.

    Raises:
        ConfigError: a prompt and its answer are longer than the model supports.
    """
    if not prompts:
        return []
    spans = speech or [()] * len(prompts)
    seeds = [None] * len(prompts) if sampling is None else sampling.seeds
    requests = [Request(*of) for of in zip(prompts, spans, seeds, strict=True)]
    found: dict[int, Continuation] = {}
    ending = Ending(max_new_tokens, limit, 1.0 if sampling is None else sampling.temperature)
    for index, answer in Decoder(llm, ending, len(prompts), prefix, watch).answers(requests):
        found[index] = answer
    return [found[index] for index in range(len(prompts))]


def slots_that_fit(llm: FrozenLLM, wanted: int, columns: int) -> int:
    """Answers that can be written at a time, at most `wanted`; a GPU's free memory limits them.

    Args:
        columns: tokens of the longest prompt and its answer.
    """
    if llm.device.type != "cuda":
        return wanted
    # Half is for what the layers compute, the logits, and caches that are copied when they grow.
    room = memory_budget(llm.device) // 2
    return max(1, min(wanted, room // (columns * llm.cached_bytes_per_token)))


class Decoder:
    """Writes answers to a stream of prompts, up to `slots` at a time."""

    def __init__(
        self,
        llm: FrozenLLM,
        ending: Ending,
        slots: int,
        prefix: PrefixKV | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._llm, self._ending, self._prefix, self._watch = llm, ending, prefix, watch
        self._slots = slots
        self._cache = SlotCache(slots)
        self._rows: list[_Row] = []  # one for each slot in use
        self._texts: list[str] = []  # of each prompt so far, for `watch`

    @torch.inference_mode()
    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[int, Continuation]]:
        """Each prompt's index and answer, as the answers end.

        Raises:
            ConfigError: a prompt and its answer are longer than the model supports.
        """
        with unpacked_weights(self._llm):
            yield from self._answers(enumerate(requests))

    def _answers(
        self, waiting: Iterator[tuple[int, Request]]
    ) -> Iterator[tuple[int, Continuation]]:
        while True:
            free = self._slots - len(self._rows)
            if not self._rows or free * REFILL >= self._slots:
                if new := list(islice(waiting, free)):
                    self._start(new)
                elif not self._rows:
                    return
                else:
                    self._step()
            else:
                self._step()
            for slot in reversed(range(len(self._rows))):
                if (answer := self._ended(self._rows[slot])) is not None:
                    index = self._rows[slot].index
                    self._cache.remove(slot)
                    self._rows[slot] = self._rows[-1]
                    self._rows.pop()
                    yield index, answer

    def _start(self, new: Sequence[tuple[int, Request]]) -> None:
        """Compute prompts, put them into free slots and choose their first tokens."""
        llm, requests = self._llm, [request for _, request in new]
        before = 0 if self._prefix is None else self._prefix.tokens
        lengths = [len(request.embeddings) for request in requests]
        longest = max(lengths)
        columns = before + longest + self._ending.max_new_tokens
        llm.require_positions(columns)
        embeddings = torch.zeros(
            len(new), longest, llm.hidden_size, dtype=llm.dtype, device=llm.device
        )  # padded on the left: (n, T, H)
        mask = torch.zeros(len(new), before + longest, dtype=torch.long, device=llm.device)
        mask[:, :before] = 1
        is_speech = torch.zeros_like(mask, dtype=torch.bool)  # (n, P + T)
        for row, (request, length) in enumerate(zip(requests, lengths, strict=True)):
            start = longest - length
            embeddings[row, start:] = request.embeddings.to(llm.dtype)
            mask[row, before + start :] = 1
            for span in request.speech:
                is_speech[row, before + start + span.start : before + start + span.stop] = True
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]  # (n, T)
        cache = repeat_prefix(self._prefix, len(new))
        llm.set_attention("sdpa", checkpointing=False)  # the cache holds no packed row
        with llm.speech_mask.set(is_speech):
            logits = llm.model(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]  # (n, V)
        self._cache.add(cache, lengths, columns)
        rows = [_Row(index, _generator(request.seed)) for index, request in new]
        self._rows += rows
        self._choose(rows, logits)

    def _step(self) -> None:
        """Compute the last token of each answer and choose the next one."""
        llm = self._llm
        positions, bias = self._cache.begin(llm.device, llm.dtype)
        embeddings = llm.embed([row.ids[-1] for row in self._rows])[:, None]  # (A, 1, H)
        llm.set_attention("sdpa", checkpointing=False)
        with llm.speech_mask.set(torch.zeros(len(self._rows), 0, dtype=torch.bool)):
            logits = llm.model(
                inputs_embeds=embeddings.to(llm.dtype),
                attention_mask=bias,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
            ).logits[:, -1]  # (A, V)
        self._choose(self._rows, logits)

    def _choose(self, rows: Sequence[_Row], logits: Tensor) -> None:
        """Append the next token of each row, given its logits (rows, V)."""
        scores = logits.float()
        for index, row in enumerate(rows):
            if row.generator is not None:
                noise = _gumbel(row.generator, scores.shape[1]).to(scores)
                scores[index] = scores[index] / self._ending.temperature + noise
        for row, token in zip(rows, scores.argmax(1).tolist(), strict=True):
            row.ids.append(token)
        if self._watch is not None:
            for row in rows:
                self._texts += [""] * (row.index + 1 - len(self._texts))
                text = self._ending.limit.cut(self._text(row)[1])
                # A character of several tokens is shown when it is complete.
                self._texts[row.index] = text.rstrip("\ufffd").strip()
            self._watch(list(self._texts))

    def _ended(self, row: _Row) -> Continuation | None:
        """The answer of a row if it has ended."""
        ended = row.ids[-1] in self._llm.chat.stop_ids
        full = len(row.ids) == self._ending.max_new_tokens
        if not (ended or full) and self._ending.limit == NO_LIMIT:
            return None
        own, text = self._text(row)
        reply = self._ending.limit.cut(text)
        if not (ended or full) and reply == text:
            return None
        early = not ended and reply == text
        return Continuation(reply.strip(), early_stop=early, ids=tuple(own))

    def _text(self, row: _Row) -> tuple[list[int], str]:
        """Generated ids before the end token, and their text."""
        own = row.ids[:-1] if row.ids[-1] in self._llm.chat.stop_ids else row.ids
        return own, self._llm.chat.tokenizer.decode(own, skip_special_tokens=True)


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _gumbel(generator: torch.Generator, size: int) -> Tensor:
    """(size,) Gumbel noise, float64."""
    uniform = torch.rand(size, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(min=1e-300)))
