"""Shapes of models: known ones, and those of folders."""

import json
from pathlib import Path

import pytest

from rellm_cache.config.recipes import load_recipe, shipped_recipes
from rellm_cache.config.schema import EncoderConfig, LLMConfig, Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.speed.known_shapes import FRAME_SIZES, LLMS, frame_size, llm_shape

NOT_KNOWN = {"Qwen/Qwen2.5-Coder-0.5B-Instruct"}  # its config comes from the hub


@pytest.fixture(autouse=True)
def _no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELLM_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(
        "rellm_cache.speed.known_shapes.local_folder",
        lambda model, revision="": Path(model) if Path(model).is_dir() else None,
    )


def test_models_of_shipped_recipes_are_known() -> None:
    recipes = [load_recipe(name) for name in shipped_recipes()]
    models = {recipe.llm.model for recipe in recipes if recipe.llm}
    assert models - NOT_KNOWN == set(LLMS)
    encoders = {e.model for recipe in recipes for e in recipe.encoders.values() if e.model}
    assert encoders == set(FRAME_SIZES)


def test_a_known_shape_needs_no_folder() -> None:
    shape = llm_shape(LLMConfig("Qwen-7B-Chat-Qwen2"))
    assert (shape.model_type, shape.hidden_size, shape.num_hidden_layers) == ("qwen2", 4096, 32)
    assert frame_size(EncoderConfig("whisper", "openai/whisper-large-v2")) == 1280
    assert frame_size(EncoderConfig("prosody")) > 1


def test_a_folder_tells_its_shape(llm_folder: Path, recipe: Recipe) -> None:
    assert llm_shape(LLMConfig(str(llm_folder))).hidden_size == 32
    assert {frame_size(encoder) for encoder in recipe.encoders.values()} == {16}


@pytest.mark.parametrize("content", [{}, {"hidden_size": "16"}, {"d_model": 0}])
def test_an_encoder_without_a_size_is_an_error(tmp_path: Path, content: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"config.json: found d_model and hidden_size = .*known?"):
        frame_size(EncoderConfig("whisper", str(tmp_path)))


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        llm_shape(LLMConfig("nobody/nothing"))
