"""Loss registry: active losses, and a new loss of each kind from recipe to report."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pytest
import torch

from rellm_cache.config.constraints import Range
from rellm_cache.config.plugins import LOSSES
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import LossesConfig, Recipe
from rellm_cache.data.batch import Batch
from rellm_cache.errors import ConfigError
from rellm_cache.evaluation.run import evaluate
from rellm_cache.model.losses.registry import (
    OURS,
    AnswerStates,
    Loss,
    LossContext,
    Outputs,
    active_losses,
    loss_weights,
    register_loss,
)
from rellm_cache.training.loop import read_metrics
from rellm_cache.training.run import train


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Losses that a test registers are gone after it."""
    with LOSSES.restored():
        yield


def test_the_losses_of_rellm_are_registered_in_their_order() -> None:
    assert tuple(name for name in LOSSES.names() if name in OURS) == OURS


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
        register_loss("vad")(lambda outputs, batch, context: torch.zeros(()))


@dataclass(frozen=True)
class Power:
    """Options of a loss."""

    power: Annotated[int, Range(1)] = 2
    """Power of the embeddings."""


def test_a_new_loss_goes_from_the_recipe_to_the_report(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    @register_loss("embedding_norm", options=Power)
    def embedding_norm(outputs: Outputs, batch: Batch, context: LossContext) -> torch.Tensor:
        assert outputs.pooled.shape == (len(batch.ids), outputs.speech.embeddings.shape[2])
        return outputs.pooled.abs().pow(context.options.power).mean(dim=1).sum()

    @register_loss("confidence", task="response_lm")
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


def test_weights_and_options_of_a_loss_are_checked_and_recorded(tmp_path: Path) -> None:
    register_loss("power", options=Power)(lambda outputs, batch, context: torch.zeros(()))
    recipe = load_recipe("heads", ["losses.power=0.5", "losses.options.power.power=3"])
    assert recipe.losses.weights["power"] == 0.5
    (tmp_path / "again.toml").write_text(to_toml(recipe), "utf-8")
    assert load_recipe(str(tmp_path / "again.toml")) == recipe
    assert "[losses.options.power]\npower = 2" in to_toml(load_recipe("heads", ["losses.power=1"]))
    for override, message in {
        "losses.power=-1": r"losses\.power = -1\.0: expected 0 or more",
        "losses.options.power.powr=1": r"options\.power: unknown key 'powr'; did you mean 'power'",
        "losses.options.power.power=0": r"losses\.options\.power\.power = 0: expected 1 or more",
        "losses.options.power.power=x": r"losses\.options\.power: power = 'x': expected int",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_recipe("heads", ["losses.power=1", override])


def test_a_task_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="task = 'response': expected one of response_lm, emotion"):
        register_loss("mine", task="response")


def test_a_loss_that_returns_no_scalar_is_named() -> None:
    loss = Loss("margin", lambda batch, context: 1.0)
    total = torch.ones(())
    assert loss.check(total) is total
    with pytest.raises(ConfigError, match=r"loss 'margin': .* Tensor of shape \(4,\); expected a"):
        loss.check(torch.ones(4))
    with pytest.raises(ConfigError, match=r"loss 'margin': .* returned float; expected a scalar"):
        loss.check(0.0)
