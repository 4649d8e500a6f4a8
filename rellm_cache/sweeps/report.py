"""Report of a sweep: mean scores of variants and their differences from the baseline.

<out>/sweep.json        settings, runs and comparisons
<out>/sweep.csv         one row for each run, for a spreadsheet or a statistics program
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.schema import LossesConfig, Recipe
from rellm_cache.evaluation.scores import Scores
from rellm_cache.metrics.intervals import Summary, summarize
from rellm_cache.metrics.significance import PairedDifference, paired_difference
from rellm_cache.sweeps.plan import BASELINE, SweepPlan
from rellm_cache.utils.atomic_files import write_csv, write_json

SWEEP_JSON, SWEEP_CSV = "sweep.json", "sweep.csv"


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, finished or failed.

    Attributes:
        seconds: time of training.
        scores: name → score, such as `validation.ua`; empty if the run failed.
        error: reason for the failure in one line, or empty.
        traceback: traceback of an unexpected error, or empty.
    """

    variant: str
    seed: int
    out: Path
    seconds: float = 0.0
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True)
class Comparison:
    """One score of one variant, over its seeds.

    Attributes:
        difference: difference from the baseline, paired by seed; None for the baseline itself, or
            if there are no pairs.
    """

    variant: str
    metric: str
    score: Summary
    difference: PairedDifference | None


@dataclass(frozen=True)
class SweepReport:
    """All runs of a sweep so far, in the order of the plan; `test` is the manifest scored on."""

    out: Path
    plan: SweepPlan
    manifest: Path
    test: Path | None
    runs: list[SweepRun]

    @property
    def failed(self) -> list[SweepRun]:
        """Runs that failed."""
        return [run for run in self.runs if run.error]

    @property
    def metrics(self) -> list[str]:
        """Names of all scores, in the order in which they first occur."""
        return list(dict.fromkeys(name for run in self.runs for name in run.scores))

    def scores(self, variant: str, metric: str) -> dict[int, float]:
        """Seed → score of a variant, for the runs that have it."""
        return {
            run.seed: run.scores[metric]
            for run in self.runs
            if run.variant == variant and metric in run.scores
        }

    def comparisons(self) -> list[Comparison]:
        """All scores of all variants, in the order of the plan."""
        rows = []
        for variant in (row.name for row in self.plan.rows):
            for metric in self.metrics:
                found = self.scores(variant, metric)
                if found:
                    base = {} if variant == BASELINE else self.scores(BASELINE, metric)
                    difference = paired_difference(found, base)
                    rows.append(
                        Comparison(variant, metric, summarize(list(found.values())), difference)
                    )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Content of `sweep.json`."""
        recipe = self.plan.recipe
        return {
            "recipe": recipe.name if isinstance(recipe, Recipe) else recipe,
            "overrides": list(self.plan.overrides),
            "variants": {row.name: list(row.overrides) for row in self.plan.rows},
            "seeds": list(self.plan.seeds),
            "manifest": str(self.manifest),
            "evaluated": None if self.test is None else str(self.test),
            "runs": [{**vars(run), "out": str(run.out)} for run in self.runs],
            "comparisons": [dataclasses.asdict(row) for row in self.comparisons()],
        }

    def write(self) -> None:
        """Write both files; each is replaced atomically."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / SWEEP_JSON, self.to_json())
        columns = ["variant", "seed", "run", "seconds", *self.metrics, "error"]
        write_csv(self.out / SWEEP_CSV, columns, map(self._row, self.runs))

    def _row(self, run: SweepRun) -> list[object]:
        values = [run.scores.get(metric, "") for metric in self.metrics]
        return [run.variant, run.seed, run.out, round(run.seconds, 1), *values, run.error]


def scores_by_name(scores: Scores) -> dict[str, float]:
    """Name → score of one evaluation: `ua` of the category head, `llm_ua` by label likelihood."""
    named: dict[str, Any] = {}
    llm = scores.llm
    for prefix, recognition in (
        ("", scores.head.recognition),
        ("llm_", llm and llm.likelihood),
        ("words_", llm and llm.generation),
    ):
        if recognition:
            named[f"{prefix}ua"] = recognition.ua
            named[f"{prefix}accuracy"] = recognition.accuracy
    if llm and llm.unparsable is not None:
        named["unparsable"] = llm.unparsable
    if scores.head.kl is not None:
        named["kl"] = scores.head.kl
    named |= {f"ccc_{name}": value for name, value in scores.head.ccc.items()}
    return named | {f"{name}_loss": value for name, value in scores.losses.items()}


def comparable_scores(scores: dict[str, float], losses: LossesConfig) -> dict[str, float]:
    """The scores that can be compared between recipes.

    Excludes the total loss, which depends on the loss weights; losses with weight 0, which are not
    computed; and scores without a value, such as the CCC of constant predictions.
    """

    def is_comparable(name: str) -> bool:
        term = name.removesuffix("_loss")
        return name != "loss" and (term == name or losses.weights.get(term, 1.0) > 0)

    return {k: v for k, v in scores.items() if is_comparable(k) and math.isfinite(v)}
