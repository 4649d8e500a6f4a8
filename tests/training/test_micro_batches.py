"""Budgets: every clip once, no micro-batch above the limit but a single clip, memory measured."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from rellm_cache.config.schema import Recipe
from rellm_cache.data.batch import Example
from rellm_cache.training.micro_batches import FIRST_TOKENS, Budget, Meter
from rellm_cache.utils.devices import memory_room

CPU = torch.device("cpu")
EXAMPLES = [Example(name) for name in "abcdef"]
COSTS = dict(zip("abcdef", (50, 40, 30, 30, 20, 10), strict=True))


def make_budget(recipe: Recipe, tokens: Literal["auto"] | int) -> Budget:
    training = replace(recipe.training, tokens_per_step=tokens)
    return Budget(replace(recipe, training=training), COSTS)


@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        (1000, [[0, 1, 2, 3, 4, 5]]),
        (70, [[0], [1, 2], [3, 4, 5]]),
        (45, [[0], [1], [2], [3], [4, 5]]),  # the first is more by itself
    ],
)
def test_clips_are_cut_by_tokens(speech_recipe: Recipe, limit: int, parts: list[list[int]]) -> None:
    assert make_budget(speech_recipe, limit).split(range(6), EXAMPLES) == parts
    assert make_budget(speech_recipe, limit).split([], EXAMPLES) == []


def test_auto_takes_what_the_memory_holds_and_settles(speech_recipe: Recipe) -> None:
    budget = make_budget(speech_recipe, "auto")
    assert budget.limit == FIRST_TOKENS
    room = memory_room(CPU)
    budget.learn(10, room, CPU)  # too small a micro-batch to tell
    assert (budget.limit, budget.learning) == (FIRST_TOKENS, True)
    budget.learn(FIRST_TOKENS, room // 8, CPU)
    assert budget.limit == pytest.approx(8 * FIRST_TOKENS, abs=FIRST_TOKENS)
    again = make_budget(speech_recipe, "auto")
    again.load(budget.state())
    assert (again.limit, again.learning) == (budget.limit, True)
    budget.learn(budget.limit, room, CPU)
    assert not budget.learning


def test_a_lack_of_memory_halves_for_good(speech_recipe: Recipe) -> None:
    budget = make_budget(speech_recipe, "auto")
    budget.halve(100)
    assert (budget.limit, budget.learning) == (50, False)


def test_the_meter_counts_activations_once_and_no_weights() -> None:
    model = nn.Sequential(nn.Linear(100, 1000), nn.Sigmoid(), nn.Linear(1000, 10))
    meter = Meter(CPU, model.parameters())
    with meter.forward():
        loss = model(torch.zeros(50, 100)).sum()
    loss.backward()
    assert meter.taken() == 50 * 1000 * 4  # the sigmoid's output, kept by it and by what follows
