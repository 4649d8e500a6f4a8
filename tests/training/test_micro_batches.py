"""Micro-batches: every clip once, only a single clip above the limit, memory measured."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Example
from rellm_cache.training.micro_batches import FIRST_TOKENS, ActivationMeter, MicroBatcher
from rellm_cache.utils.devices import memory_budget

CPU = torch.device("cpu")
EXAMPLES = [Example(name) for name in "abcdef"]
COSTS = dict(zip("abcdef", (50, 40, 30, 30, 20, 10), strict=True))


def make_batcher(recipe: Recipe, tokens: Literal["auto"] | int) -> MicroBatcher:
    training = replace(recipe.training, micro_batch_tokens=tokens)
    return MicroBatcher(training, FIRST_TOKENS, COSTS)


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        (1000, [[0, 1, 2, 3, 4, 5]]),
        (70, [[0], [1, 2], [3, 4, 5]]),
        (45, [[0], [1], [2], [3], [4, 5]]),  # the first is more by itself
    ],
)
def test_clips_are_cut_by_tokens(speech_recipe: Recipe, limit: int, parts: list[list[int]]) -> None:
    assert make_batcher(speech_recipe, limit).split(range(6), EXAMPLES) == parts
    assert make_batcher(speech_recipe, limit).split([], EXAMPLES) == []


def test_auto_fills_the_memory_and_settles(speech_recipe: Recipe) -> None:
    batcher = make_batcher(speech_recipe, "auto")
    assert batcher.limit == FIRST_TOKENS
    room = memory_budget(CPU)
    batcher.update_limit(10, room, CPU)  # too small a micro-batch to tell
    assert (batcher.limit, batcher.is_measuring) == (FIRST_TOKENS, True)
    batcher.update_limit(FIRST_TOKENS, room // 8, CPU)
    assert batcher.limit == pytest.approx(8 * FIRST_TOKENS, abs=FIRST_TOKENS)
    again = make_batcher(speech_recipe, "auto")
    again.load_state(batcher.state())
    assert (again.limit, again.is_measuring) == (batcher.limit, True)
    batcher.update_limit(batcher.limit, room, CPU)
    assert not batcher.is_measuring


def test_out_of_memory_halves_the_limit_for_good(speech_recipe: Recipe) -> None:
    batcher = make_batcher(speech_recipe, "auto")
    batcher.halve_limit(100)
    assert (batcher.limit, batcher.is_measuring) == (50, False)


def test_the_meter_counts_activations_once_and_no_weights() -> None:
    model = nn.Sequential(nn.Linear(100, 1000), nn.Sigmoid(), nn.Linear(1000, 10))
    meter = ActivationMeter(CPU, model.parameters())
    with meter.forward():
        loss = model(torch.zeros(50, 100)).sum()
    loss.backward()
    assert meter.used_bytes() == 50 * 1000 * 4  # the sigmoid's output, counted once
