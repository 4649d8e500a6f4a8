"""Statistics adapter: one embedding an utterance, whatever the batch, trained and loaded again."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rellm_cache.config.adapter_options import StatisticsOptions
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import AdapterConfig, Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.model.statistics_adapter import StatisticsAdapter
from rellm_cache.runs.weights import load_run, read_tensors
from rellm_cache.training.run import train


def test_a_clip_alone_and_among_longer_ones() -> None:
    torch.manual_seed(0)
    adapter = StatisticsAdapter(StatisticsOptions(channel_dropout=0.5), 24, 32).eval()
    lengths = torch.tensor([1, 37, 190])
    frames = torch.randn(3, 190, 24)  # whatever lies beyond a length must not matter
    together, counts = adapter(frames, lengths)
    assert counts.tolist() == adapter.output_lengths(lengths).tolist() == [1, 1, 1]
    for row, length in enumerate(lengths.tolist()):
        alone, _ = adapter(frames[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)


def test_statistics_are_those_of_standardized_frames() -> None:
    torch.manual_seed(0)
    adapter = StatisticsAdapter(StatisticsOptions(), 2, 3).eval()
    adapter.start_from(torch.tensor([7.0, 0.0]), torch.tensor([50.0, 1.0]))
    seen: list[torch.Tensor] = []
    adapter.linear.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    # Values 7 and 57 are 0 and 1 deviations from the mean; the second channel stays far too high.
    adapter(torch.tensor([[[7.0, 90.0], [57.0, 90.0]]]), torch.tensor([2]))
    expected = torch.tensor([[0.5 / 0.2, 6.0, (0.5 - 1) / 0.1, -6.0]])
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-3)


def test_it_trains_and_loads_with_the_scale_of_the_frames(
    corpus: Path, cache: Path, quick: Recipe, tmp_path: Path
) -> None:
    adapter = AdapterConfig(kind="statistics", options={"channel_dropout": 0.1})
    recipe = replace(quick, adapter=adapter)
    assert recipe.plugins == {}  # it is one of ours
    train(recipe, corpus, cache, tmp_path / "run")
    weights = read_tensors(tmp_path / "run" / "adapter.safetensors")
    assert (weights["adapter.scale.weight"] != 1).any()
    _, model = load_run(tmp_path / "run", torch.device("cpu"))
    assert isinstance(model.adapter, StatisticsAdapter)
    torch.testing.assert_close(model.adapter.scale.weight, weights["adapter.scale.weight"])


def test_fields_of_the_convolutions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter.width = 64: a field of kind 'conv'"):
        load_recipe("heads", ["adapter.kind=statistics", "adapter.width=64"])
