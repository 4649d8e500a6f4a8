"""Batched replies of the text LLM to distinct prompts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rellm_cache.config.specs import digest
from rellm_cache.llm.decoding import Continuation, Sampling, continue_prompts
from rellm_cache.llm.frozen import FrozenLLM


@dataclass(frozen=True)
class Writing:
    """Settings with which the LLM answers prompts."""

    system: str  # system text
    tokens: int  # maximum of new tokens
    temperature: float = 0.0  # 0: greedy; above 0, prompt and seed decide a sampled reply
    seed: int = 0  # seed of the sampling


@dataclass(frozen=True)
class Reply:
    """The LLM's reply to one prompt."""

    prompt: str  # the user's turn
    reply: Continuation  # the LLM's text
    length: int  # number of tokens of request and reply together, without end tokens
    refused: str = ""  # reason why the LLM was not asked; the reply is then empty


def ask(
    llm: FrozenLLM, prompts: Iterable[str], writing: Writing, batch_size: int
) -> Iterator[Reply]:
    """Answer each distinct prompt, short ones first; replies do not depend on the batch size.

    A prompt that is too long for the model is refused, and the others are answered.
    """
    ordered = sorted(set(prompts), key=lambda p: (len(p), p))
    for start in range(0, len(ordered), batch_size):
        batch, ids = [], []
        for prompt in ordered[start : start + batch_size]:
            tokens = llm.chat.text_prompt(writing.system, prompt)
            if llm.has_positions(len(tokens) + writing.tokens):
                batch.append(prompt)
                ids.append(tokens)
            else:
                reason = f"its request of {len(tokens)} tokens is too long for the LLM"
                yield Reply(prompt, Continuation("", early_stop=False), len(tokens), reason)
        if not batch:
            continue
        replies = continue_prompts(
            llm, [llm.embed(i) for i in ids], writing.tokens, sampling=_sampling(batch, writing)
        )
        for prompt, tokens, reply in zip(batch, ids, replies, strict=True):
            yield Reply(prompt, reply, len(tokens) + len(llm.chat.ids(reply.text)))


def _sampling(prompts: list[str], writing: Writing) -> Sampling | None:
    if not writing.temperature:
        return None
    seeds = [int(digest([writing.seed, prompt])[:15], 16) for prompt in prompts]
    return Sampling(writing.temperature, seeds)
