"""Counts of a training plan, compared with the model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rellm_cache.config.schema import LoraConfig, Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.llm.bitsandbytes_import import bitsandbytes
from rellm_cache.llm.loading import load_llm
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.planning.training import TrainingPlan, plan_training
from rellm_cache.qa.rows import QARow


def planned(recipe: Recipe, corpus: Path) -> TrainingPlan:
    clips = read_split(corpus, "train")
    seconds = {u.id: u.duration or 0.0 for u in clips}
    sizes = dict.fromkeys(recipe.encoders, 32 // len(recipe.encoders))
    return plan_training(recipe, clips, seconds, sizes, torch.float32)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["adapter", "with LoRA"])
def test_the_parameters_are_those_that_train(
    corpus: Path, recipe: Recipe, lora: LoraConfig | None
) -> None:
    assert recipe.llm is not None
    config = replace(recipe.llm, lora=lora)
    recipe = replace(recipe, llm=config)
    model = SpeechLLM(recipe, {"speech": 16, "emotion": 16}, load_llm(config, torch.device("cpu")))
    found = planned(recipe, corpus)
    assert found.trained == sum(p.numel() for p in model.parameters())
    assert found.trained_bytes == 16 * found.trained  # weights, gradients and two moments


def test_gradients_in_8_bits_take_a_quarter(corpus: Path, recipe: Recipe) -> None:
    training = replace(recipe.training, gradient_dtype="int8", gradient_accumulation=2)
    found = planned(replace(recipe, training=training), corpus)
    assert found.trained_bytes == 13 * found.trained


def test_step_memory_is_linear_in_the_tokens(corpus: Path, recipe: Recipe) -> None:
    assert recipe.llm is not None
    recipe = replace(recipe, llm=replace(recipe.llm, pack_length=50))

    def peak(tokens: int) -> int:
        training = replace(recipe.training, micro_batch_tokens=tokens)
        return planned(replace(recipe, training=training), corpus).step_bytes

    kept = (peak(300) - peak(100)) / 200
    assert peak(500) - peak(300) == pytest.approx(200 * kept, rel=1e-3)
    assert kept > 1000  # two layers of 32 values and more for each token


def test_activation_checkpointing_needs_less_memory(corpus: Path, recipe: Recipe) -> None:
    """With rows much longer than the prompts, which are then recomputed in each row."""
    assert recipe.llm is not None
    recipe = replace(recipe, training=replace(recipe.training, micro_batch_tokens=512))
    less = replace(recipe, llm=replace(recipe.llm, activation_checkpointing=True))
    plain, checkpointed = planned(recipe, corpus), planned(less, corpus)
    assert checkpointed.step_bytes < plain.step_bytes
    assert checkpointed.operations == plain.operations


def test_frames_that_a_crop_leaves_out_cost_nothing(corpus: Path, speech_recipe: Recipe) -> None:
    whole = planned(speech_recipe, corpus)
    adapter = replace(speech_recipe.adapter, crop_frames=25)
    cropped = planned(replace(speech_recipe, adapter=adapter), corpus)
    clips = read_split(corpus, "train")
    kept = sum(min(25, round(50 * (u.duration or 0))) for u in clips)
    share = kept / sum(round(50 * (u.duration or 0)) for u in clips)
    assert cropped.operations == pytest.approx(share * whole.operations)
    assert cropped.tokens == 4 * speech_recipe.training.batch_size  # ceil(25 / 8) each
    assert cropped.step_bytes < 0.6 * whole.step_bytes


def test_without_an_llm_only_the_adapter_counts(corpus: Path, speech_recipe: Recipe) -> None:
    found = planned(speech_recipe, corpus)
    assert (found.llm_bytes, found.host_bytes) == (0, 0)
    assert found.step_bytes > 0


def test_questions_share_their_speech(corpus: Path, recipe: Recipe) -> None:
    assert recipe.llm is not None
    losses = replace(recipe.losses, response_lm=0.0, emotion_lm=0.0, qa_lm=1.0)
    recipe = replace(recipe, losses=losses, training=replace(recipe.training, batch_size=1))
    (clip, *_) = read_split(corpus, "train")
    row = QARow(clip.id, "implicit", "content", 0, "Who speaks now?", "It is a calm voice.", False,
                "", "sad", "corpus", None, "m", "0", "w", "p", 1, "")  # fmt: skip

    def tokens(count: int) -> int:
        asked, sizes = {clip.id: [row] * count}, {"speech": 16, "emotion": 16}
        found = plan_training(recipe, [clip], {clip.id: 2.0}, sizes, torch.float32, questions=asked)
        return found.tokens

    speech = tokens(0)
    assert tokens(1) == speech + 4 + 7 + 4  # three words, five words, and tokens between them
    assert tokens(3) == speech + 3 * 15


def test_bf16_products_halve_the_unpacked_copy_and_keep_one_of_the_output_matrix(
    corpus: Path, recipe: Recipe
) -> None:
    config = replace(recipe.require_llm(), quantization="nf4")
    llm = load_llm(config, torch.device("cpu"))
    layers = [m for m in llm.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    output = llm.output_weight.shape[0] * llm.hidden_size
    exact, rounded = (
        planned(replace(recipe, llm=replace(config, cpu_precision=precision)), corpus)
        for precision in ("fp32", "bf16")
    )
    assert exact.llm_bytes - rounded.llm_bytes == 2 * weights - 2 * output
