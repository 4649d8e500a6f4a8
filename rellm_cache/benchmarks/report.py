"""Report of a benchmark: scores by fold, their means and spreads, beside published rows.

<out>/benchmark.json    settings, runs, folds, means; what a leaderboard asks for
<out>/benchmark.csv     one row for each run
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rellm_cache.benchmarks.leaderboard import EMOBOX_EMOTIONS, EMOBOX_UA
from rellm_cache.config.recipes import identity_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.data.speaker_normalization import normalized_streams
from rellm_cache.metrics.intervals import Summary, summarize
from rellm_cache.utils.atomic_files import write_csv, write_json
from rellm_cache.version import __version__

BENCHMARK_JSON, BENCHMARK_CSV = "benchmark.json", "benchmark.csv"
METRICS = ("ua", "wa", "macro_f1")
PARTS = {"head": "category head", "llm": "LLM, likelihood"}


@dataclass(frozen=True)
class FoldRun:
    """A run on one fold, finished or failed.

    Attributes:
        seconds: time of training.
        clips: test clips.
        scores: `head` and `llm` → `ua`, `wa` and `macro_f1` on the test clips.
        error: reason for the failure, or empty.
    """

    fold: str
    seed: int
    out: Path
    seconds: float = 0.0
    clips: int = 0
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str = ""

    @property
    def number(self) -> int:
        """Number of the fold."""
        return int(self.fold.rpartition("_")[2])


@dataclass(frozen=True)
class Score:
    """A score over folds and seeds.

    Attributes:
        mean: over the folds' means.
        sd_folds: standard deviation of the folds' means over seeds; None for one fold.
        sd_seeds: standard deviation over seeds of the mean over folds; None for one seed.
    """

    mean: float
    sd_folds: float | None
    sd_seeds: float | None


@dataclass(frozen=True)
class BenchmarkReport:
    """All runs so far.

    Attributes:
        recipe: with the emotions of the corpus; its seed is that of the first run.
        lacking: what the folds lack of the benchmark's clips, as text; empty if they are whole.
    """

    out: Path
    corpus: str
    recipe: Recipe
    overrides: tuple[str, ...]
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    lacking: tuple[str, ...] = ()
    runs: list[FoldRun] = field(default_factory=list)

    @property
    def failed(self) -> list[FoldRun]:
        """Runs that failed."""
        return [run for run in self.runs if run.error]

    @property
    def parts(self) -> list[str]:
        """`head` and `llm`, where runs have their scores."""
        return [part for part in PARTS if any(part in run.scores for run in self.runs)]

    @property
    def leaderboard(self) -> dict[str, float]:
        """Published UA by encoder; empty for a corpus, or a number of emotions, without rows."""
        if EMOBOX_EMOTIONS.get(self.corpus) != len(self.recipe.heads.emotions):
            return {}
        return EMOBOX_UA[self.corpus]

    @property
    def normalizes_speakers(self) -> bool:
        """Whether test clips were heard with the other clips of their speaker, unlike published."""
        return bool(normalized_streams(self.recipe.encoders))

    def fold_scores(self, part: str, metric: str) -> dict[str, Summary]:
        """Fold → mean and spread over its seeds."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            if part in run.scores:
                found.setdefault(run.fold, []).append(run.scores[part][metric])
        return {fold: summarize(values) for fold, values in found.items()}

    def score(self, part: str, metric: str) -> Score:
        """A score over all folds; seeds with a run on every fold give its spread over seeds."""
        folds = [summary.mean for summary in self.fold_scores(part, metric).values()]
        seeds: dict[int, list[float]] = {}
        for run in self.runs:
            if part in run.scores:
                seeds.setdefault(run.seed, []).append(run.scores[part][metric])
        whole = [sum(v) / len(v) for v in seeds.values() if len(v) == len(self.folds)]
        over_folds = summarize(folds)
        sd_seeds = summarize(whole).sd if len(whole) > 1 else None
        return Score(over_folds.mean, over_folds.sd, sd_seeds)

    def to_json(self) -> dict[str, Any]:
        """Content of `benchmark.json`."""
        return {
            "benchmark": "EmoBox",
            "corpus": self.corpus,
            "rellm": __version__,
            "recipe": self.recipe.name,
            "recipe_sha256": digest(identity_toml(dataclasses.replace(self.recipe, seed=0))),
            "overrides": list(self.overrides),
            "emotions": list(self.recipe.heads.emotions),
            "folds": list(self.folds),
            "seeds": list(self.seeds),
            "lacking": list(self.lacking),
            "finished": len(self.runs) - len(self.failed),
            "planned": len(self.folds) * len(self.seeds),
            "scores": {
                part: {m: dataclasses.asdict(self.score(part, m)) for m in METRICS}
                for part in self.parts
            },
            "by_fold": {
                part: {
                    m: {
                        fold: dataclasses.asdict(found)
                        for fold, found in self.fold_scores(part, m).items()
                    }
                    for m in METRICS
                }
                for part in self.parts
            },
            "speaker_normalization": self.normalizes_speakers,
            "leaderboard_ua": self.leaderboard,
            "runs": [
                {**dataclasses.asdict(run), "out": str(run.out.relative_to(self.out))}
                for run in self.runs
            ],
        }

    def write(self) -> None:
        """Write both files; each is replaced atomically."""
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / BENCHMARK_JSON, self.to_json(), ensure_ascii=False)
        names = [f"{part}_{metric}" for part in self.parts for metric in METRICS]
        columns = ["fold", "seed", "clips", "seconds", *names, "error"]
        write_csv(self.out / BENCHMARK_CSV, columns, map(self._row, self.runs))

    def _row(self, run: FoldRun) -> list[object]:
        values = [run.scores.get(part, {}).get(m, "") for part in self.parts for m in METRICS]
        return [run.fold, run.seed, run.clips, round(run.seconds, 1), *values, run.error]
