"""Requests to the LLM. In: a recipe's wording, its LLM. Out: token ids, how likely answers are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rellm_cache.config import Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.packing import Segment, pack
from rellm_cache.llm.prompt import SpeechPrompt
from rellm_cache.model.losses import token_losses


def require_llm(llm: FrozenLLM | None) -> FrozenLLM:
    """The LLM of a model; `ConfigError` if its recipe has none."""
    if llm is None:
        raise ConfigError(
            "this run has no LLM, so it cannot answer; train with a recipe whose "
            "losses.response or losses.recognition is above 0, as `small`"
        )
    return llm


def question_prompt(recipe: Recipe, llm: FrozenLLM, question: str) -> SpeechPrompt:
    """The token ids around speech for one question about it."""
    user = recipe.qa.prompt.replace("{question}", question)
    return llm.chat.speech_prompt(recipe.prompts.empathetic_system, user)


def speech_prompts(recipe: Recipe, llm: FrozenLLM) -> dict[str, SpeechPrompt]:
    """The token ids around speech for each kind of request, made once."""
    prompts = recipe.prompts
    return {
        "response": llm.chat.speech_prompt(prompts.empathetic_system, prompts.alignment),
        "recognition": llm.chat.speech_prompt(prompts.plain_system, prompts.recognition),
        "answer": llm.chat.speech_prompt(prompts.empathetic_system, prompts.answer),
        # What comes before speech is the same for every question; each has its own tokens after it.
        "question": question_prompt(recipe, llm, ""),
    }


@torch.inference_mode()
def answer_log_likelihoods(
    llm: FrozenLLM, request: Sequence[Segment], answers: Sequence[Sequence[int]]
) -> Tensor:
    """(A,) float32 log-likelihood of each answer's ids after a request, each behind the same one.

    Args:
        request: segments, each the parent of the next.
    """
    last = len(request) - 1
    row = pack([*request, *(llm.segment(answer=ids, parent=last) for ids in answers)])
    losses, owners = token_losses(row, llm.hidden_states(row), llm.output_weight)  # (N,), (N,)
    found = losses.new_zeros(len(answers))
    return found.index_add(0, owners - len(request), -losses)
