"""Made data: shapes of frames, labels, responses, and the made tokenizer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.llm.loading import load_llm
from rellm_cache.speed.made_data import made_chat, made_examples, made_streams
from rellm_cache.speed.sizes import RESPONSE_TOKENS


def test_frames_have_the_size_of_each_encoder(recipe: Recipe) -> None:
    streams = made_streams(recipe.encoders, 3)
    assert streams.sizes == {"speech": 16, "emotion": 16}
    assert streams.lengths(["0", "1", "2"]).tolist() == [225] * 3
    assert streams.sources["speech"].frames("2").dtype == np.float16


def test_frames_of_several_layers_and_of_int8_stores_can_be_made(recipe: Recipe) -> None:
    speech = recipe.encoders["speech"]
    layers = {"speech": replace(speech, layers="all"), "emotion": replace(speech, dtype="int8")}
    streams = made_streams(layers, 1)
    assert streams.sizes == {"speech": 3 * 16, "emotion": 16}
    assert streams.sources["emotion"].quantization is None


def test_a_pooled_stream_stays_pooled(recipe: Recipe) -> None:
    emotion = replace(recipe.encoders["emotion"], pooling="utterance")
    assert made_streams({**recipe.encoders, "emotion": emotion}, 1).pooled == {"emotion"}


def test_the_made_tokenizer_takes_words_for_tokens() -> None:
    chat = made_chat()
    assert len(chat.ids("How are you, today?")) == 6
    prompt = chat.speech_prompt("Be kind.", "Answer this: {speech} Now.")
    assert len(prompt.before) > 5
    assert len(prompt.end) == 2


def test_responses_have_the_tokens_of_iemocap(recipe: Recipe) -> None:
    assert recipe.used_llm
    llm = load_llm(recipe.used_llm, torch.device("cpu"))
    llm.chat = made_chat()
    examples = made_examples(recipe, llm, 7)
    assert len(examples) == 7
    assert {len(example.targets[0].ids) for example in examples} == {RESPONSE_TOKENS}
    assert len({example.emotion for example in examples}) == len(recipe.heads.emotions)


def test_losses_whose_rows_are_not_made_are_refused(recipe: Recipe, llm_folder: Path) -> None:
    for name in ("qa_lm", "response_kl"):
        changed = replace(recipe, losses=replace(recipe.losses, **{name: 1.0}))
        with pytest.raises(ConfigError, match=rf"measure without it: --set losses.{name}=0"):
            made_examples(changed, None, 1)


def test_every_shipped_recipe_that_trains_by_steps_can_be_made() -> None:
    for name in ("re-llm", "blsp-emo", "re-llm-code", "small", "heads"):
        recipe = load_recipe(name)
        assert len(made_examples(recipe, None, 2)) == 2
        assert set(made_streams(recipe.encoders, 1).sizes) == set(recipe.encoders)
