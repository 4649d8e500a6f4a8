"""CCC prepass: its moments equal those of the predictions that follow, dropout included."""

from dataclasses import replace
from typing import Literal

import torch
from accelerate import Accelerator

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Batch
from rellm_cache.model.losses.dimensions import moments_of
from rellm_cache.model.speech_llm import SpeechLLM
from rellm_cache.training.ccc_prepass import ccc_prepass


def make_batches() -> list[Batch]:
    torch.manual_seed(1)
    return [
        Batch(
            ids=("a", "b"),
            streams={"speech": torch.randn(2, 90, 16).half()},
            frame_lengths=torch.tensor([90, 60]),
            emotions=torch.tensor([0, 1]),
            vad=torch.rand(2, 3),
            targets=((), ()),
        )
        for _ in range(3)
    ]


CPU = torch.device("cpu")
FLOAT32 = torch.autocast("cpu", enabled=False)


def make_model(speech_recipe: Recipe, vad_kind: Literal["mse", "ccc"] = "ccc") -> SpeechLLM:
    torch.manual_seed(0)
    recipe = replace(
        speech_recipe,
        adapter=replace(speech_recipe.adapter, dropout=0.3, crop_frames=40),
        heads=replace(speech_recipe.heads, dropout=0.3),
        losses=replace(speech_recipe.losses, vad_kind=vad_kind),
    )
    return SpeechLLM(recipe, {"speech": 16}, None).train()


def test_the_second_pass_has_the_moments_of_the_prepass(speech_recipe: Recipe) -> None:
    model = make_model(speech_recipe)
    batches = make_batches()
    prepass = ccc_prepass(model, batches, Accelerator(cpu=True), FLOAT32)
    predicted = []
    for index, batch in enumerate(batches):
        prepass.restore_random_state(index, CPU)
        predicted.append(moments_of(model(batch, prepass.moments).dimensions, batch.vad))
        torch.rand(7)  # whatever else a step draws
    assert prepass.moments is not None
    torch.testing.assert_close(prepass.moments, torch.stack(predicted).sum(0))
    assert not prepass.moments.requires_grad
    other = sum(moments_of(model(batch).dimensions, batch.vad) for batch in batches)
    assert not torch.allclose(prepass.moments, torch.as_tensor(other))


def test_no_prepass_without_need(speech_recipe: Recipe) -> None:
    model = make_model(speech_recipe)
    accelerator = Accelerator(cpu=True)
    assert ccc_prepass(model, make_batches()[:1], accelerator, FLOAT32).moments is None
    model = make_model(speech_recipe, "mse")
    assert ccc_prepass(model, make_batches(), accelerator, FLOAT32).moments is None
