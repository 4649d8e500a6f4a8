"""Savings: the cheapest set of options with which training fits a GPU."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.planning.savings import SAVINGS, Fit, cheapest_fit
from rellm_cache.planning.training import CONTEXT_BYTES, TrainingPlan, plan_training


@pytest.fixture
def untied(recipe: Recipe, tmp_path: Path) -> Recipe:
    """A recipe whose LLM has six layers and an output matrix of its own; rows of 512 tokens."""
    assert recipe.llm is not None
    folder = tmp_path / "untied"
    shape = {"num_hidden_layers": 6, "tie_word_embeddings": False}
    AutoConfig.from_pretrained(recipe.llm.model, **shape).save_pretrained(folder)
    llm = dataclasses.replace(recipe.llm, model=str(folder), attention="sdpa")
    training = dataclasses.replace(recipe.training, micro_batch_tokens=512)
    return dataclasses.replace(recipe, llm=llm, training=training)


def planned(recipe: Recipe, corpus: Path) -> TrainingPlan:
    clips = read_split(corpus, "train")
    seconds = {clip.id: clip.duration or 0.0 for clip in clips}
    return plan_training(recipe, clips, seconds, {"speech": 16, "emotion": 16}, torch.bfloat16)


def fit(recipe: Recipe, corpus: Path, size: int) -> Fit | None:
    return cheapest_fit(recipe, lambda changed: planned(changed, corpus), size + CONTEXT_BYTES)


def test_every_saving_saves(untied: Recipe, corpus: Path) -> None:
    for saving in SAVINGS:
        base = untied
        for other in SAVINGS:
            if other.field == saving.needs:
                base = other.applied(base)
        assert saving.is_open(base)
        less = planned(saving.applied(base), corpus)
        more = planned(base, corpus)
        if saving.field == "llm.quantize_output":  # blocks as large as this small matrix cost more
            assert less.llm_bytes < more.llm_bytes
        else:
            assert less.peak_bytes < more.peak_bytes, saving.field


def test_the_cheapest_set_is_chosen(untied: Recipe, corpus: Path) -> None:
    whole = planned(untied, corpus).peak_bytes
    few = fit(untied, corpus, whole - 1)
    assert few is not None
    assert few.lines == ("--set llm.offload_embeddings=true",)
    everything = untied
    for saving in SAVINGS:
        everything = saving.applied(everything)
    least = planned(everything, corpus).peak_bytes
    most = fit(untied, corpus, least)
    assert most is not None
    assert most.training.peak_bytes <= least
    assert "--set llm.activation_checkpointing=true" in most.lines
    assert fit(untied, corpus, least // 2) is None


def test_the_lines_give_the_plan_that_fits(untied: Recipe, corpus: Path, tmp_path: Path) -> None:
    everything = untied
    for saving in SAVINGS:
        everything = saving.applied(everything)
    whole, least = (planned(one, corpus).peak_bytes for one in (untied, everything))
    found = fit(untied, corpus, (whole + 2 * least) // 3)
    assert found is not None
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(untied))
    recipe = load_recipe(str(path), [line.removeprefix("--set ") for line in found.lines])
    assert planned(recipe, corpus) == found.training


def test_what_a_recipe_has_already_is_left_out(untied: Recipe, corpus: Path) -> None:
    assert untied.llm is not None
    llm = dataclasses.replace(untied.llm, activation_checkpointing=True)
    recipe = dataclasses.replace(untied, llm=llm)
    found = fit(recipe, corpus, planned(recipe, corpus).peak_bytes - 1)
    assert found is not None
    assert not any("checkpointing" in line for line in found.lines)


def test_options_that_a_tied_model_does_not_allow_are_left_out(
    recipe: Recipe, corpus: Path
) -> None:
    training = dataclasses.replace(recipe.training, micro_batch_tokens=512)
    tied = dataclasses.replace(recipe, training=training)
    found = fit(tied, corpus, planned(tied, corpus).peak_bytes - 1)
    assert found is not None
    assert not any("output" in line or "embeddings" in line for line in found.lines)


def test_gradients_are_left_out_where_a_step_is_one_micro_batch(
    speech_recipe: Recipe, corpus: Path
) -> None:
    """Where moments in 8 bits are not enough."""
    found = {}
    for draws in (1, 2):
        training = dataclasses.replace(
            speech_recipe.training, gradient_accumulation=draws, micro_batch_tokens=0
        )
        recipe = dataclasses.replace(speech_recipe, training=training)
        size = planned(SAVINGS[1].applied(recipe), corpus).peak_bytes - 1
        found[draws] = fit(recipe, corpus, size)
    assert found[1] is None
    assert found[2] is not None
    assert found[2].lines == (
        "--set training.optimizer=adamw8bit",
        "--set training.gradient_dtype=int8",
    )


def test_a_recipe_without_an_llm_has_the_optimizer_alone(
    speech_recipe: Recipe, corpus: Path
) -> None:
    def plan(changed: Recipe) -> TrainingPlan:
        clips = read_split(corpus, "train")
        seconds = {clip.id: clip.duration or 0.0 for clip in clips}
        return plan_training(changed, clips, seconds, {"speech": 16}, torch.float32)

    size = plan(speech_recipe).peak_bytes - 1 + CONTEXT_BYTES
    found = cheapest_fit(speech_recipe, plan, size)
    assert found is not None
    assert found.lines == ("--set training.optimizer=adamw8bit",)
