"""Text LLM: the frozen chat LLM with transcripts in place of speech, for answers and labels.

It gives the rows "Text+LLM" of the paper's Table I and uses the prompts of the speech models. It is
not trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rellm_cache.config.schema import PromptsConfig
from rellm_cache.llm.decoding import Continuation, continue_prompts
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.prompts import fill_placeholders
from rellm_cache.llm.sentence_limit import NO_LIMIT, ReplyLimit
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods


@dataclass(frozen=True)
class Reading:
    """Input of a text model for one utterance: its transcript, and its true emotion or None."""

    transcript: str
    emotion: str | None = None


class TextLLM:
    """The frozen LLM of a recipe with a `[text]` table.

    Attributes:
        emotions: options of emotion recognition.
    """

    def __init__(self, llm: FrozenLLM, prompts: PromptsConfig, emotions: tuple[str, ...]) -> None:
        self.llm = llm
        self.emotions = emotions
        self._prompts = prompts

    def request(self, reading: Reading) -> str:
        """The user turn that asks for an answer."""
        if reading.emotion is None:
            return self._prompts.answer.replace("{speech}", reading.transcript)
        values = {"emotion": reading.emotion, "speech": reading.transcript}
        return fill_placeholders(self._prompts.labelled_answer, values)

    def fits(self, reading: Reading, max_new_tokens: int) -> bool:
        """Whether the LLM has room for both requests about a reading and an answer."""
        prompts, chat = self._prompts, self.llm.chat
        asked = (
            chat.text_prompt(prompts.empathetic_system, self.request(reading)),
            chat.text_prompt(prompts.plain_system, self._recognition(reading)),
        )
        return self.llm.has_positions(max(map(len, asked)) + max_new_tokens)

    def answers(
        self, readings: Sequence[Reading], max_new_tokens: int, limit: ReplyLimit = NO_LIMIT
    ) -> list[Continuation]:
        """Greedy answers, up to `limit`."""
        system = self._prompts.empathetic_system
        return self._continue(system, [self.request(r) for r in readings], max_new_tokens, limit)

    def labels_in_words(self, readings: Sequence[Reading], max_new_tokens: int) -> list[str]:
        """Greedy answers to the recognition prompt; the emotion is not shown to the LLM."""
        turns = [self._recognition(reading) for reading in readings]
        system = self._prompts.plain_system
        return [c.text for c in self._continue(system, turns, max_new_tokens, NO_LIMIT)]

    def label_log_likelihoods(
        self,
        readings: Sequence[Reading],
        labels: Sequence[Sequence[int]],
        request: str | None = None,
    ) -> Tensor:
        """(B, C) log-likelihood of each label's ids with the end token; the emotion is hidden.

        Args:
            request: user's turn with `{speech}` for the transcript; None for the first wording.
        """
        chat, system = self.llm.chat, self._prompts.plain_system
        asked = self._prompts.recognition_of(self.emotions) if request is None else request
        turns = [asked.replace("{speech}", reading.transcript) for reading in readings]
        requests = [chat.text_prompt(system, turn) for turn in turns]
        return torch.stack(
            [
                answer_log_likelihoods(self.llm, [self.llm.segment(ids=ids)], labels)
                for ids in requests
            ]
        )

    def _recognition(self, reading: Reading) -> str:
        asked = self._prompts.recognition_of(self.emotions)
        return asked.replace("{speech}", reading.transcript)

    def _continue(
        self, system: str, turns: Sequence[str], max_new_tokens: int, limit: ReplyLimit
    ) -> list[Continuation]:
        """Greedy continuations; equal turns are computed once."""
        distinct = list(dict.fromkeys(turns))
        prompts = [self.llm.embed(self.llm.chat.text_prompt(system, turn)) for turn in distinct]
        found = continue_prompts(self.llm, prompts, max_new_tokens, limit=limit)
        by_turn = dict(zip(distinct, found, strict=True))
        return [by_turn[turn] for turn in turns]
