"""Batched replies of the text LLM to distinct prompts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rellm_cache.config.schema import LLMConfig
from rellm_cache.config.specs import digest
from rellm_cache.llm.decoding import Continuation, Decoder, Ending, Request, slots_that_fit
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.utils.devices import default_device
from rellm_cache.workers.options import WorkerOptions
from rellm_cache.workers.rows import MakeRows, RowTask, rows_by_workers


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
    """Answer each distinct prompt; replies do not depend on the batch size.

    Long prompts come first, so that the prompts of a batch are alike and the most memory is
    needed at the start. A prompt that is too long for the model is refused, and the others are
    answered.
    """
    requests: list[tuple[str, tuple[int, ...]]] = []
    for prompt in sorted(set(prompts)):
        tokens = tuple(llm.chat.text_prompt(writing.system, prompt))
        if llm.has_positions(len(tokens) + writing.tokens):
            requests.append((prompt, tokens))
        else:
            reason = f"its request of {len(tokens)} tokens is too long for the LLM"
            yield Reply(prompt, Continuation("", early_stop=False), len(tokens), reason)
    if not requests:
        return
    requests.sort(key=lambda request: len(request[1]), reverse=True)
    shared = _shared_length([tokens for _, tokens in requests])
    prefix = llm.prefix_kv(requests[0][1][:shared]) if shared else None
    ending = Ending(writing.tokens, temperature=writing.temperature or 1.0)
    slots = slots_that_fit(llm, batch_size, len(requests[0][1]) + writing.tokens)
    stream = (
        Request(llm.embed(tokens[shared:]), seed=_seed(prompt, writing))
        for prompt, tokens in requests
    )
    for index, answer in Decoder(llm, ending, slots, prefix).answers(stream):
        prompt, tokens = requests[index]
        yield Reply(prompt, answer, len(tokens) + len(llm.chat.ids(answer.text)))


@dataclass(frozen=True)
class ReplyTask(RowTask):
    """The task of a worker that answers prompts."""

    llm: LLMConfig
    writing: Writing

    def load(self, note: Callable[[str], None]) -> MakeRows:
        """Load the LLM."""
        llm = load_llm(self.llm, self.device or default_device())
        return lambda prompts: (
            (reply.prompt, reply) for reply in ask(llm, prompts, self.writing, self.batch_size)
        )


def ask_workers(task: ReplyTask, prompts: Iterable[str], options: WorkerOptions) -> Iterator[Reply]:
    """Answer each distinct prompt by many workers; alike prompts are given to one worker."""
    ordered = sorted(set(prompts), key=lambda prompt: (-len(prompt), prompt))
    for _, reply in rows_by_workers(task, {p: p for p in ordered}, "prompt", options):
        yield reply


def _shared_length(requests: Sequence[tuple[int, ...]]) -> int:
    """Number of tokens that all requests begin with; at least one token of each is left."""
    first, last = min(requests), max(requests)  # in lexical order the most different ones
    pairs = enumerate(zip(first, last, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, requests)) - 1)


def _seed(prompt: str, writing: Writing) -> int | None:
    """Seed of a prompt's sampling; None for greedy decoding."""
    if not writing.temperature:
        return None
    return int(digest([writing.seed, prompt])[:15], 16)
