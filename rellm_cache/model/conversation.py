"""Conversation with the frozen LLM: turns of text and of speech embeddings, and the next reply.

Speech of every turn stays as embeddings, and text as text. A conversation of one spoken turn gives
the answer of `SpeechLLM.answers`.

Letters: T tokens of the prompt, T' embeddings of one speech, H the LLM's hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from rellm_cache.errors import RellmError
from rellm_cache.llm.decoding import Continuation, Sampling, Watch, continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.sentence_limit import NO_LIMIT, ReplyLimit


class ConversationLengthError(RellmError):
    """A conversation and its next reply are longer than the LLM supports."""


@dataclass(frozen=True, eq=False)
class Turn:
    """One turn of the user or of the model.

    Attributes:
        texts: the texts around its speeches, one more than there are speeches.
        speech: embeddings (T', H) of each speech.
    """

    texts: tuple[str, ...]
    speech: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class ReplySettings:
    """How a reply is decoded: most new tokens, its limit, and sampling (None: greedy)."""

    max_new_tokens: int
    limit: ReplyLimit = NO_LIMIT
    sampling: Sampling | None = None


@dataclass(frozen=True)
class Reply:
    """The next turn of the model, and the number of tokens that it answers."""

    continuation: Continuation
    prompt_tokens: int


@torch.inference_mode()
def reply_to(
    llm: FrozenLLM,
    system: str,
    turns: Sequence[Turn],
    settings: ReplySettings,
    watch: Watch | None = None,
) -> Reply:
    """The model's next turn; `turns` are of user and model in turn, first and last the user's.

    Raises:
        ConversationLengthError: conversation and reply are longer than the model supports.
    """
    pieces = llm.chat.conversation(system, [turn.texts for turn in turns])
    speeches = [speech for turn in turns for speech in turn.speech]
    embeddings: list[Tensor] = []
    spans: list[range] = []
    length = 0
    for ids, speech in zip_longest(pieces, speeches):
        embeddings.append(llm.embed(ids))
        length += len(ids)
        if speech is not None:
            embeddings.append(speech.to(embeddings[-1]))
            spans.append(range(length, length + len(speech)))
            length += len(speech)
    if not llm.has_positions(length + settings.max_new_tokens):
        raise ConversationLengthError(
            f"the conversation has {length} tokens, and an answer may have "
            f"{settings.max_new_tokens} more: together they are longer than {llm.config.model} "
            "supports; start a new conversation"
        )
    (found,) = continue_prompts(
        llm,
        [torch.cat(embeddings)],  # (T, H)
        settings.max_new_tokens,
        [spans],
        settings.limit,
        settings.sampling,
        watch,
    )
    return Reply(found, length)
