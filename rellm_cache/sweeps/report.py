"""What a sweep found. In: scores of runs. Out: means, deviations, paired differences, two files.

<out>/sweep.json        settings, every run, every comparison
<out>/sweep.csv         a row a run, for a spreadsheet or a statistics program
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.schema import Recipe
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
        variant: its name.
        seed: its seed.
        out: the run folder.
        seconds: of training.
        scores: `validation.ua` and the like; empty if it failed.
        error: why it failed, in a line; empty if it did not.
        traceback: where, if the error was none that a user is expected to mend.
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
    """One score of one variant.

    Attributes:
        variant: its name.
        metric: name of the score.
        score: over the seeds that have it.
        difference: from the baseline, paired by seed; None for the baseline, or without pairs.
    """

    variant: str
    metric: str
    score: Summary
    difference: PairedDifference | None


@dataclass(frozen=True)
class SweepReport:
    """All runs of a sweep so far.

    Attributes:
        out: the sweep's folder.
        plan: what was to be run.
        manifest: trained on.
        test: manifest that runs were scored on, or None.
        runs: those that finished or failed, in the order they were made.
    """

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
        """Names of all scores, in the order in which runs have them."""
        return list(dict.fromkeys(name for run in self.runs for name in run.scores))

    def scores(self, variant: str, metric: str) -> dict[int, float]:
        """Seed → score, where there is one."""
        return {
            run.seed: run.scores[metric]
            for run in self.runs
            if run.variant == variant and metric in run.scores
        }

    def comparisons(self) -> list[Comparison]:
        """Every score of every variant, variants in the plan's order."""
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
        """As `sweep.json` has it."""
        return {
            "recipe": self.plan.recipe,
            "overrides": list(self.plan.overrides),
            "variants": {row.name: list(row.overrides) for row in self.plan.rows},
            "seeds": list(self.plan.seeds),
            "manifest": str(self.manifest),
            "evaluated": None if self.test is None else str(self.test),
            "runs": [{**vars(run), "out": str(run.out)} for run in self.runs],
            "comparisons": [dataclasses.asdict(row) for row in self.comparisons()],
        }

    def write(self) -> None:
        """Write both files; a reader sees the old ones or the whole new ones."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / SWEEP_JSON, self.to_json())
        columns = ["variant", "seed", "run", "seconds", *self.metrics, "error"]
        write_csv(self.out / SWEEP_CSV, columns, map(self._row, self.runs))

    def _row(self, run: SweepRun) -> list[object]:
        values = [run.scores.get(metric, "") for metric in self.metrics]
        return [run.variant, run.seed, run.out, round(run.seconds, 1), *values, run.error]


def scores_by_name(scores: Scores) -> dict[str, float]:
    """One evaluation as flat names: `ua` is the category head's, `llm_ua` by label likelihood."""
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
    named |= {f"ccc_{name}": value for name, value in scores.head.ccc.items()}
    return named | {f"{name}_loss": value for name, value in scores.losses.items()}


def comparable(scores: dict[str, float], recipe: Recipe) -> dict[str, float]:
    """Scores that may be compared between recipes and were measured.

    The total loss of another weighting is another thing, a loss that the recipe leaves out is not
    computed, and a CCC of constant predictions does not exist.
    """

    def is_measured(name: str) -> bool:
        term = name.removesuffix("_loss")
        return name != "loss" and (term == name or getattr(recipe.losses, term, 1.0) > 0)

    return {k: v for k, v in scores.items() if is_measured(k) and math.isfinite(v)}
