"""Sweep plan: variants of a recipe times seeds, as a list of jobs.

The baseline is the recipe as given. A variant changes some of its fields. Every variant runs with
every seed. All recipes are read and checked here, before anything trains.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.config.toml import read_toml
from rellm_cache.errors import ConfigError

BASELINE = "baseline"
SEED_MARK = "{seed}"


@dataclass(frozen=True)
class Variant:
    """A named change of the recipe, as overrides in the syntax of `--set`."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run: a variant with a seed, in the folder `<sweep>/<variant>/seed-N`."""

    variant: str
    recipe: Recipe
    out: Path

    @property
    def seed(self) -> int:
        """Seed of the recipe."""
        return self.recipe.seed

    @property
    def title(self) -> str:
        """Name of the job in messages."""
        return f"{self.variant}, seed {self.seed}"


@dataclass(frozen=True)
class SweepPlan:
    """Variants of one recipe, each to be trained with each seed.

    Attributes:
        recipe: name of a shipped recipe, path of a TOML file, or a loaded recipe.
        overrides: changes of the baseline and all variants. In any override, `{seed}` becomes the
            seed of the run.
        variants: variants besides the baseline, in the order of the report.
    """

    recipe: str | Recipe
    overrides: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)

    @property
    def rows(self) -> tuple[Variant, ...]:
        """The baseline, then the variants."""
        return (Variant(BASELINE, ()), *self.variants)

    def jobs(self, out: Path) -> list[Job]:
        """All runs in order: seed by seed, so that the first comparisons are ready early.

        Runs with the same LLM follow each other, so that it is loaded once.

        Raises:
            ConfigError: no seeds, a name that is invalid for a folder or occurs twice, an invalid
                override, or two variants with the same recipe.
        """
        self._check_names()
        if not self.seeds:
            raise ConfigError("found no seeds, expected at least one; give some, as --seeds 1-3")
        jobs = [
            Job(row.name, self._recipe(row, seed), out / row.name / f"seed-{seed}")
            for seed in self.seeds
            for row in self.rows
        ]
        _refuse_equal(jobs[: len(self.rows)])
        llms = [job.recipe.llm if job.recipe.needs_llm else None for job in jobs]
        return [jobs[i] for i in sorted(range(len(jobs)), key=lambda i: llms.index(llms[i]))]

    def _recipe(self, row: Variant, seed: int) -> Recipe:
        overrides = [o.replace(SEED_MARK, str(seed)) for o in (*self.overrides, *row.overrides)]
        try:
            if any(o.partition("=")[0].strip() == "seed" for o in overrides):
                raise ConfigError("found an override of seed; give the seeds with --seeds")
            return replace(load_recipe(self.recipe, overrides), seed=seed)
        except ConfigError as error:
            raise ConfigError(f"variant {row.name!r}: {error}") from error

    def _check_names(self) -> None:
        names = [row.name for row in self.rows]
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=-]*", name):
                raise ConfigError(
                    f"variant {name!r}: expected letters, digits and . _ + = -, as it becomes the "
                    "name of a folder"
                )
            if names.count(name) > 1:
                owner = "the recipe as given" if name == BASELINE else "another variant"
                raise ConfigError(f"variant {name!r}: {owner} has this name; choose another")


def _refuse_equal(jobs: Sequence[Job]) -> None:
    """Raise `ConfigError` if two variants have the same recipe."""
    for index, job in enumerate(jobs):
        for other in jobs[:index]:
            if job.recipe == other.recipe:
                raise ConfigError(
                    f"variant {job.variant!r}: has the same recipe as {other.variant!r}; check its "
                    "overrides, or remove the variant"
                )


def parse_variant(text: str) -> Variant:
    """A variant from text like `no-emotion: encoders.emotion=none; losses.vad=0`."""
    name, colon, rest = text.partition(":")
    overrides = tuple(part.strip() for part in rest.split(";") if part.strip())
    if not colon or not overrides:
        raise ConfigError(
            f"variant {text!r}: expected a name, a colon and overrides, as "
            "'no-emotion: encoders.emotion=none' or 'bare: encoders.emotion=none; "
            "losses.vad=0'"
        )
    return Variant(name.strip(), overrides)


def read_variants(path: Path) -> tuple[Variant, ...]:
    """Variants from a TOML file with lines like `no-emotion = ["encoders.emotion=none"]`.

    Raises:
        ConfigError: the file is not TOML, or a value is not an array of overrides.
    """
    table = read_toml(path)
    for name, value in table.items():
        if not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
            raise ConfigError(
                f"{path}: {name} = {value!r}: expected an array of overrides, as "
                '["encoders.emotion=none", "losses.vad=0"]'
            )
    return tuple(Variant(name, tuple(value)) for name, value in table.items())
