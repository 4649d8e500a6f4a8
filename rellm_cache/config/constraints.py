"""Constraints of recipe fields: ranges of numbers and placeholders of texts.

A field declares its constraint in its type, as `epochs: Annotated[int, Range(1)]`. `check_fields`
checks all of them, and `documentation` describes them.
"""

import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from rellm_cache.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """A range of finite numbers."""

    low: float | None = None  # the smallest number allowed
    high: float | None = None  # the largest number allowed
    above: float | None = None  # numbers must be greater than this
    below: float | None = None  # numbers must be less than this
    word: str = ""  # allowed in place of a number

    def broken_by(self, value: Any) -> str:
        """Describe what is expected if a number, or one of a tuple, is not allowed; else ""."""
        if isinstance(value, tuple):
            return f"numbers, each {self}" if any(map(self.broken_by, value)) else ""
        allowed = isinstance(value, str) or (  # the field's type checks the word
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return "" if allowed else str(self)

    def __str__(self) -> str:
        ends = {
            "{} or more": self.low,
            "at most {}": self.high,
            "more than {}": self.above,
            "less than {}": self.below,
        }
        text = " and ".join(text.format(end) for text, end in ends.items() if end is not None)
        if self.low is not None and self.high is not None:
            text = str(self.low) if self.low == self.high else f"{self.low} to {self.high}"
        return f"{text}, or {self.word!r}" if self.word else text


class Holds:
    """Placeholders that a text must hold exactly once each."""

    def __init__(self, *placeholders: str) -> None:
        self.placeholders = placeholders

    def broken_by(self, value: str | tuple[str, ...]) -> str:
        """Describe what is expected if a text, or one of a tuple, is not allowed; else ""."""
        if isinstance(value, tuple):
            broken = [*filter(None, map(self.broken_by, value))] or ([] if value else [str(self)])
            return f"one text or more, each with {broken[0]}" if broken else ""
        wrong = [one for one in self.placeholders if value.count(one) != 1]
        return f"{wrong[0]} exactly once" if wrong else ""

    def __str__(self) -> str:
        return f"{' and '.join(f'`{one}`' for one in self.placeholders)} once"


Count = Annotated[int, Range(1)]
Size = Annotated[int, Range(1, 65_536)]  # of a layer
LearningRate = Annotated[float, Range(high=1, above=0)]
WeightDecay = Annotated[float, Range(0, 100)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
DropoutRate = Annotated[float, Range(0, below=1)]


class Section:
    """A table of a recipe. Its values are checked when it is created."""

    table: ClassVar[str]  # name of the TOML table
    later: ClassVar[tuple[str, ...]] = ()  # fields that enter digests only if not their default

    def __post_init__(self) -> None:
        check_fields(self.table, self)


def constraints_of(kind: Any) -> dict[str, Range | Holds]:
    """Return field → constraint of a dataclass, for fields with a constraint."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: known[0] for name, known in found.items() if known}


def check_fields(table: str, section: Any) -> None:
    """Raise `ConfigError` if a value of a recipe's table breaks the constraint of its field.

    The name of the recipe's own table is "".
    """
    for name, constraint in constraints_of(type(section)).items():
        value = getattr(section, name)
        if expected := constraint.broken_by(value):
            shown = list(value) if isinstance(value, tuple) else value
            where = f"{table}.{name}".removeprefix(".")
            raise ConfigError(f"{where} = {shown!r}: expected {expected}")
