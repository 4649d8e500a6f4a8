"""Token ids around speech: the emotion prompt has the options of the recipe's heads."""

from dataclasses import replace

import pytest
import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.speech_prompts import speech_prompts

PROTOCOL = (
    "Please identify the emotion tone of the speech provided below. Select from the following "
    "options: neutral, sad, angry, happy, or surprise.\n\nSpeech: {speech}"
)


@pytest.fixture
def llm(recipe: Recipe) -> FrozenLLM:
    assert recipe.llm is not None
    return load_llm(recipe.llm, torch.device("cpu"))


def test_the_default_emotion_prompt_has_the_token_ids_of_the_papers_text(
    recipe: Recipe, llm: FrozenLLM
) -> None:
    papers = llm.chat.speech_prompt("You are a helpful assistant.", PROTOCOL)
    assert speech_prompts(recipe, llm)["emotion_lm"] == papers


@pytest.mark.parametrize("emotions", [("sad", "happy"), ("happy", "sad")])
def test_the_emotion_prompt_follows_the_heads(
    recipe: Recipe, llm: FrozenLLM, emotions: tuple[str, ...]
) -> None:
    recipe = replace(recipe, heads=replace(recipe.heads, emotions=emotions))
    text = PROTOCOL.replace("neutral, sad, angry, happy, or surprise", "sad or happy")
    found = speech_prompts(recipe, llm)["emotion_lm"]
    assert found == llm.chat.speech_prompt("You are a helpful assistant.", text)
