"""Savings of memory: options of a recipe, and the cheapest set of them that fits into a GPU.

An option costs time. The costs are shares of a step, from counts of operations; they only order the
sets. An option that changes the loss costs more than all others together.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError
from rellm_cache.planning.training import TrainingPlan


@dataclass(frozen=True)
class Saving:
    """A field of a recipe that saves memory, its value, and the share of a step that it costs."""

    field: str  # `table.name`
    value: Any
    cost: float
    needs: str = ""  # field that must be set too

    @property
    def line(self) -> str:
        """The option of a command that sets it."""
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"--set {self.field}={value}"

    def is_open(self, recipe: Recipe) -> bool:
        """Whether the recipe has the field and does not save there yet."""
        table, name = self.field.split(".")
        section = getattr(recipe, table)
        return section is not None and getattr(section, name) in (False, "adamw", "fp32")

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with it."""
        table, name = self.field.split(".")
        section = dataclasses.replace(getattr(recipe, table), **{name: self.value})
        return dataclasses.replace(recipe, **{table: section})


SAVINGS = (
    Saving("llm.offload_embeddings", True, 0.005),  # copies some rows
    Saving("training.optimizer", "adamw8bit", 0.01),
    Saving("training.gradient_dtype", "int8", 0.012),  # reads and writes all sums again
    Saving("llm.activation_checkpointing", True, 0.33),  # a second forward pass
    Saving("llm.offload_activations", True, 0.05, "llm.activation_checkpointing"),
    # It takes 0.05 of a step, but changes the loss: all that change nothing come before it.
    Saving("llm.quantize_output", True, 1.0),
)


@dataclass(frozen=True)
class Fit:
    """A set of savings with which training fits.

    Attributes:
        lines: the options of a command that set them, as `--set llm.quantize_output=true`.
    """

    lines: tuple[str, ...]
    training: TrainingPlan


def cheapest_fit(
    recipe: Recipe, plan: Callable[[Recipe], TrainingPlan], gpu_bytes: int
) -> Fit | None:
    """The cheapest set of savings with which a recipe trains on a GPU; None if there is none.

    Args:
        plan: counts a recipe.
    """
    for chosen in _sets([saving for saving in SAVINGS if saving.is_open(recipe)], recipe):
        changed = recipe
        try:
            for saving in chosen:
                changed = saving.applied(changed)
            training = plan(changed)
        except ConfigError:
            continue  # not for this model, as what ties its output matrix to its embeddings
        if training.fits(gpu_bytes):
            return Fit(tuple(saving.line for saving in chosen), training)
    return None


def _sets(savings: Sequence[Saving], recipe: Recipe) -> Iterator[tuple[Saving, ...]]:
    """Sets of savings, the cheapest first; a saving comes only with what it needs."""
    open_fields = {saving.field for saving in savings}
    found = [
        chosen
        for size in range(1, len(savings) + 1)
        for chosen in itertools.combinations(savings, size)
        if all(
            not saving.needs
            or saving.needs not in open_fields  # the recipe has it
            or saving.needs in {other.field for other in chosen}
            for saving in chosen
        )
    ]
    yield from sorted(found, key=lambda chosen: sum(saving.cost for saving in chosen))
