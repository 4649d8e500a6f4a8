"""A model that reads. In: what was said, as text, and perhaps its emotion. Out: answers, labels.

The rows "Text+LLM" of the paper's Table I: the chat LLM as it is, asked with the prompts that
others hear speech in. Nothing of it trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rellm_cache.config.schema import Recipe, TextConfig
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.generation import Continuation, continue_prompts
from rellm_cache.llm.reply_limit import NO_LIMIT, ReplyLimit
from rellm_cache.model.answer_likelihoods import answer_log_likelihoods


@dataclass(frozen=True)
class Reading:
    """What a text model is given of one utterance: its transcript, and its true emotion or None."""

    transcript: str
    emotion: str | None = None


class TextLLM:
    """The frozen LLM of a recipe with a `[text]` table."""

    def __init__(self, recipe: Recipe, llm: FrozenLLM) -> None:
        self.recipe = recipe
        self.llm = llm
        self.text = text_config(recipe)

    def request(self, reading: Reading) -> str:
        """The user's turn of an answer."""
        prompts = self.recipe.prompts
        if reading.emotion is None:
            return prompts.answer.replace("{speech}", reading.transcript)
        labelled = prompts.labelled_answer.replace("{emotion}", reading.emotion)
        return labelled.replace("{speech}", reading.transcript)

    def answers(
        self, readings: Sequence[Reading], max_new_tokens: int, limit: ReplyLimit = NO_LIMIT
    ) -> list[Continuation]:
        """Greedy answers, up to `limit`."""
        system = self.recipe.prompts.empathetic_system
        return self._continue(system, [self.request(r) for r in readings], max_new_tokens, limit)

    def labels_in_words(self, readings: Sequence[Reading], max_new_tokens: int) -> list[str]:
        """Greedy answers to the request for recognition, from the transcript alone."""
        turns = [self._recognition(reading) for reading in readings]
        system = self.recipe.prompts.plain_system
        return [c.text for c in self._continue(system, turns, max_new_tokens, NO_LIMIT)]

    def label_log_likelihoods(
        self, readings: Sequence[Reading], labels: Sequence[Sequence[int]]
    ) -> Tensor:
        """(B, C) log-likelihood of each label's ids, end included, from the transcript alone."""
        chat, system = self.llm.chat, self.recipe.prompts.plain_system
        requests = [chat.text_prompt(system, self._recognition(reading)) for reading in readings]
        return torch.stack(
            [
                answer_log_likelihoods(self.llm, [self.llm.segment(ids=ids)], labels)
                for ids in requests
            ]
        )

    def _recognition(self, reading: Reading) -> str:
        asked = self.recipe.prompts.recognition_of(self.recipe.heads.emotions)
        return asked.replace("{speech}", reading.transcript)

    def _continue(
        self, system: str, turns: Sequence[str], max_new_tokens: int, limit: ReplyLimit
    ) -> list[Continuation]:
        """Greedy continuations; equal turns are asked for once."""
        distinct = list(dict.fromkeys(turns))
        prompts = [self.llm.embed(self.llm.chat.text_prompt(system, turn)) for turn in distinct]
        found = continue_prompts(self.llm, prompts, max_new_tokens, limit=limit)
        by_turn = dict(zip(distinct, found, strict=True))
        return [by_turn[turn] for turn in turns]


def text_config(recipe: Recipe) -> TextConfig:
    """A recipe's `[text]`; `ConfigError` if it has none."""
    if recipe.text is None:
        raise ConfigError(
            f"recipe {recipe.name!r} has no [text] table: its model hears speech, and is trained; "
            "a model that reads is `text-llm`"
        )
    return recipe.text
