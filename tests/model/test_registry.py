"""Adapter registry: an adapter of another kind trains, and an unknown kind is named."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rellm_cache.config.schema import AdapterConfig, Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import ConfigError
from rellm_cache.model.adapter import Adapter
from rellm_cache.model.registry import ADAPTERS, build_adapter, register_adapter
from rellm_cache.planning.training import plan_training
from rellm_cache.runs.weights import load_run
from rellm_cache.training.run import train


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Adapters that a test registers are gone after it."""
    before = dict(ADAPTERS)
    yield
    ADAPTERS.clear()
    ADAPTERS.update(before)


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
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    register_adapter("mean")(MeanAdapter)
    training = replace(quick.training, epochs=1, micro_batch_tokens=200)
    recipe = replace(quick, adapter=AdapterConfig(kind="mean"), training=training)
    clips = read_split(corpus, "train")
    plan = plan_training(recipe, clips, {u.id: 2.0 for u in clips}, 32, torch.float32)
    report = train(recipe, corpus, cache, tmp_path / "run")
    assert plan.trained == report.trainable
    _, model = load_run(tmp_path / "run", torch.device("cpu"))
    assert isinstance(model.adapter, MeanAdapter)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.kind = 'qformer': .* expected one of conv"):
        build_adapter(AdapterConfig(kind="qformer"), 8, 8)


def test_two_adapters_cannot_share_a_kind() -> None:
    with pytest.raises(ValueError, match="'conv' is registered already"):
        register_adapter("conv")(MeanAdapter)
