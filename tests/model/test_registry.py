"""Adapter registry: an adapter of another kind trains, and an unknown kind is named."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pytest
import torch
from torch import Tensor, nn

from rellm_cache.config.constraints import Range
from rellm_cache.config.plugins import ADAPTERS
from rellm_cache.config.recipes import load_recipe, to_toml
from rellm_cache.config.schema import AdapterConfig, Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import ConfigError, RunError
from rellm_cache.model.adapter import Adapter
from rellm_cache.model.registry import register_adapter
from rellm_cache.planning.training import plan_training
from rellm_cache.runs.weights import load_run
from rellm_cache.training.run import train
from rellm_cache.utils.checksums import record


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Adapters that a test registers are gone after it."""
    with ADAPTERS.restored():
        yield


class MeanAdapter(Adapter):
    """One embedding for each utterance, from its mean frame."""

    def __init__(self, config: AdapterConfig, input_size: int, output_size: int) -> None:
        super().__init__(config, input_size, output_size)
        self.project = nn.Linear(input_size, output_size)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        valid = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        means = (frames * valid[..., None]).sum(1) / lengths[:, None]
        return self.project(means)[:, None], torch.ones_like(lengths)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return torch.ones_like(lengths)


def test_an_adapter_of_another_kind_is_planned_trained_and_loaded(
    corpus: Path,
    cache: Path,
    quick: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register_adapter("mean")(MeanAdapter)
    training = replace(quick.training, epochs=1, micro_batch_tokens=200)
    recipe = replace(quick, adapter=AdapterConfig(kind="mean"), training=training)
    assert recipe.plugins == {"adapter.mean": f"module {__name__}"}
    clips = read_split(corpus, "train")
    sizes = {"speech": 16, "emotion": 16}
    plan = plan_training(recipe, clips, {u.id: 2.0 for u in clips}, sizes, torch.float32)
    report = train(recipe, corpus, cache, tmp_path / "run")
    assert plan.trained == report.trainable
    _, model = load_run(tmp_path / "run", torch.device("cpu"))
    assert isinstance(model.adapter, MeanAdapter)
    assert "trained with" not in capsys.readouterr().err

    recorded = tmp_path / "run/recipe.toml"
    recorded.write_text(recorded.read_text().replace(f"module {__name__}", "old 0.1"))
    record(tmp_path / "run", ["recipe.toml"])
    load_run(tmp_path / "run", torch.device("cpu"))
    assert "trained with adapter.mean of old 0.1; installed is module" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"plugins.adapter.mean: wanted 'module .* found 'old 0.1'"):
        train(load_recipe(str(recorded)), corpus, cache, tmp_path / "run")


@dataclass(frozen=True)
class Depth:
    """Options of an adapter."""

    layers: Annotated[int, Range(1)] = 2
    """Number of layers."""


def test_another_kind_starts_its_table_afresh(tmp_path: Path) -> None:
    register_adapter("mean", options=Depth)(MeanAdapter)
    recipe = load_recipe("small", ["adapter.kind=mean", "adapter.options.layers=3"])
    assert recipe.adapter == AdapterConfig(kind="mean", options={"layers": 3})
    table = '[adapter]\nkind = "mean"\nlayer_mix = "concat"\nlayer_norm = false\noutput_size = 0\n'
    assert f"{table}\n[adapter.options]" in to_toml(recipe)
    (tmp_path / "again.toml").write_text(to_toml(recipe), "utf-8")
    assert load_recipe(str(tmp_path / "again.toml")) == recipe
    back = load_recipe(str(tmp_path / "again.toml"), ["adapter.kind=conv", "adapter.width=32"])
    assert back.adapter == AdapterConfig(width=32)
    assert back.plugins == {}


def test_fields_of_another_kind_and_wrong_options_are_refused() -> None:
    register_adapter("mean", options=Depth)(MeanAdapter)
    with pytest.raises(ConfigError, match=r"adapter.width = 32: a field of kind 'conv', but adapt"):
        load_recipe("small", ["adapter.kind=mean", "adapter.width=32"])
    with pytest.raises(ConfigError, match=r"adapter.options: unknown key 'layer'; did you mean 'l"):
        load_recipe("small", ["adapter.kind=mean", "adapter.options.layer=3"])
    with pytest.raises(ConfigError, match=r"adapter.options.layers = 0: expected 1 or more"):
        AdapterConfig(kind="mean", options={"layers": 0})


def test_two_adapters_cannot_share_a_kind() -> None:
    with pytest.raises(ConfigError, match="'conv' is registered already, by rellm; choose another"):
        register_adapter("conv")(MeanAdapter)
    with pytest.raises(ValueError, match="'a b': expected letters, digits, - and _"):
        register_adapter("a b")(MeanAdapter)
    with pytest.raises(ValueError, match="'other': options: expected a frozen dataclass"):
        register_adapter("other", options=int)(MeanAdapter)
