"""Steps on made data: their number, times, tokens and operations."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rellm_cache.config.schema import LLMConfig, Recipe
from rellm_cache.llm.loading import load_llm
from rellm_cache.llm.memory import estimate_footprint
from rellm_cache.speed.sizes import CLIP_SECONDS, RESPONSE_TOKENS
from rellm_cache.speed.steps import (
    FEWEST,
    WARM_UP,
    MadeTraining,
    linear_parameters,
    with_clips_a_step,
)

CPU = torch.device("cpu")


def training(recipe: Recipe, out: Path) -> MadeTraining:
    llm = load_llm(recipe.used_llm, CPU) if recipe.used_llm else None
    return MadeTraining(recipe, llm, out)


def test_as_many_steps_count_as_asked_for(recipe: Recipe, tmp_path: Path) -> None:
    made = training(recipe, tmp_path)
    assert made.clips == 2
    found = made.step_times(time.monotonic() + 600, most_steps=3)
    assert (len(found.seconds), found.warm_up) == (3, WARM_UP)
    assert all(seconds > 0 for seconds in found.seconds)
    assert len(found.processor_seconds) == 3
    assert not list(tmp_path.rglob("*.safetensors"))


def test_without_time_one_step_counts(recipe: Recipe, tmp_path: Path) -> None:
    found = training(recipe, tmp_path).step_times(time.monotonic() - 1, most_steps=3)
    assert (len(found.seconds), found.warm_up) == (FEWEST - 1, 1)


def test_steps_before_the_last_change_of_the_micro_batches_do_not_count(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = replace(recipe.training, micro_batch_tokens="auto", gradient_accumulation=8)
    assert recipe.llm is not None
    llm = replace(recipe.llm, pack_length=150)
    made = training(replace(recipe, training=config, llm=llm), tmp_path)
    assert len(made.trainer.groups(0)[0]) > 1
    found = made.step_times(time.monotonic() + 600, most_steps=2)
    assert len(made.trainer.groups(0)[0]) == 1
    assert len(found.seconds) == 2
    assert found.warm_up >= WARM_UP


def test_tokens_and_operations_are_those_of_the_batch(recipe: Recipe, tmp_path: Path) -> None:
    made = training(recipe, tmp_path)
    llm, model = made.llm, made.trainer.model
    assert llm is not None
    assert recipe.llm is not None
    frames = round(50 * CLIP_SECONDS)
    speech = int(model.adapter.output_lengths(torch.tensor([frames])))
    answers = [[t.ids for t in example.targets] for example in made.examples]
    assert [len(own) for own in answers] == [2, 2]  # a response and an emotion
    assert all(len(own[0]) in range(RESPONSE_TOKENS, RESPONSE_TOKENS + 4) for own in answers)
    after = sum(len(model.prompts[task].after) for task in ("response_lm", "emotion_lm"))
    count = sum(len(ids) for own in answers for ids in own)
    # The last token of an answer is predicted, and not read.
    assert made.tokens() == 2 * (2 * speech + after) + count - 4
    weights = linear_parameters(llm)
    assert weights == estimate_footprint(recipe.llm, torch.float32).linear_parameters
    output = llm.output_weight.shape[0] * llm.hidden_size
    expected = 4 * weights * made.tokens() + 4 * output * count
    expected += 2 * frames * model.adapter.operations
    assert made.operations() == pytest.approx(expected)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_weights_count_as_they_are(llm_folder: Path, quantization: str) -> None:
    plain, packed = (
        load_llm(LLMConfig(str(llm_folder), quantization=kind), CPU)  # type: ignore[arg-type]
        for kind in ("none", quantization)
    )
    assert linear_parameters(plain) == linear_parameters(packed)


def test_without_an_llm_there_are_no_tokens(speech_recipe: Recipe, tmp_path: Path) -> None:
    made = training(speech_recipe, tmp_path)
    assert made.tokens() == 0
    assert made.operations() > 0
    assert made.step_times(time.monotonic() - 1, most_steps=1).seconds


def test_a_step_may_have_fewer_clips(recipe: Recipe, tmp_path: Path) -> None:
    many = replace(recipe.training, gradient_accumulation=4)
    fewer = with_clips_a_step(replace(recipe, training=many), 3)
    assert training(fewer, tmp_path).clips == 3
