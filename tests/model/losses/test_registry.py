"""Loss registry: active losses, and a new loss of each kind from recipe to report."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import ANSWER_TASKS, LossesConfig, Recipe
from rellm_cache.data.batch import Batch
from rellm_cache.errors import ConfigError
from rellm_cache.evaluation.run import evaluate
from rellm_cache.model.losses.registry import (
    LOSSES,
    AnswerStates,
    LossContext,
    Outputs,
    active_losses,
    clip_loss,
    loss_weights,
    token_loss,
)
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Losses that a test registers are gone after it."""
    before = [(registry, dict(registry)) for registry in (LOSSES, ANSWER_TASKS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


def test_losses_with_a_weight_are_active() -> None:
    config = LossesConfig(response_lm=0.0, emotion_lm=0.5)
    assert list(active_losses(config, has_dimensions=True)) == ["emotion_lm", "emotion_ce", "vad"]
    assert "vad" not in active_losses(config, has_dimensions=False)
    assert loss_weights(config)["emotion_lm"] == 0.5


def test_a_loss_over_answers_brings_their_cross_entropy() -> None:
    config = LossesConfig(response_lm=0.0, response_kl=1.0, emotion_ce=0.0, vad=0.0)
    assert list(active_losses(config, has_dimensions=True)) == ["response_lm", "response_kl"]


def test_two_losses_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="'vad' is registered already"):
        clip_loss("vad")(lambda outputs, batch, context: torch.zeros(()))


def test_a_new_loss_goes_from_the_recipe_to_the_report(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    @clip_loss("embedding_norm")
    def embedding_norm(outputs: Outputs, batch: Batch, context: LossContext) -> torch.Tensor:
        return outputs.speech.embeddings.square().mean(dim=(1, 2)).sum()

    @token_loss("confidence", "response_lm")
    def confidence(answers: AnswerStates, context: LossContext) -> torch.Tensor:
        logits = answers.states @ answers.output_weight.T
        return -logits.log_softmax(1).gather(1, answers.tokens[:, None]).sum()

    losses = LossesConfig(response_lm=0.0, extra={"embedding_norm": 0.1, "confidence": 0.5})
    recipe = replace(quick, losses=losses, training=replace(quick.training, epochs=1))
    report = train(recipe, corpus, cache, tmp_path / "run")
    (first, *_) = (row for row in read_metrics(tmp_path / "run") if row["step"] == 1)
    assert first["embedding_norm_loss"] > 0
    assert first["confidence_loss"] == pytest.approx(first["response_lm_loss"], rel=1e-4)
    assert {"embedding_norm_loss", "confidence_loss"} <= report.validation.keys()
    scores = evaluate(tmp_path / "run", corpus / "test.jsonl", cache)
    assert "embedding_norm" in scores.losses
    assert "`confidence` 0.5" in (tmp_path / "run/README.md").read_text("utf-8")
    assert "Loss embedding_norm" in (tmp_path / "run/report.html").read_text("utf-8")
    assert load_recipe(str(tmp_path / "run/recipe.toml")).losses == losses


def test_a_weight_of_an_unknown_loss_is_refused(recipe: Recipe) -> None:
    config = replace(recipe.losses, extra={"embeding_norm": 0.1, "vat": 1.0})
    with pytest.raises(ConfigError, match=r"losses\.extra\.embeding_norm: no loss has this name"):
        loss_weights(config)
    with pytest.raises(ConfigError, match=r"losses\.extra\.vat = -1: expected 0 or more"):
        replace(recipe.losses, extra={"vat": -1})
    assert "[losses.extra]" not in to_toml(recipe)
