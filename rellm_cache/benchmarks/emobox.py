"""EmoBox benchmark: trains and tests a recipe on every fold of a corpus, with several seeds.

<out>/fold_K/baseline/seed-N/    a run folder, with its scores on the test clips of the fold
<out>/benchmark.json             scores by run and fold, their means and the leaderboard's rows
<out>/benchmark.csv              one row for each run

Each run is one of a sweep: finished runs are not repeated, interrupted ones continue, and failed
ones are listed. Runs can share several processes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rellm_cache.benchmarks.report import BenchmarkReport, FoldRun
from rellm_cache.config.recipes import load_recipe
from rellm_cache.config.schema import Recipe
from rellm_cache.config.toml import override_texts
from rellm_cache.corpus.manifest import read_manifests
from rellm_cache.corpus.statistics import read_report
from rellm_cache.errors import ConfigError, ManifestError, RunError
from rellm_cache.runs.card import SCORES
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.sweeps.plan import Job, SweepPlan
from rellm_cache.sweeps.report import SweepRun
from rellm_cache.sweeps.run import Sweeper, SweepSettings
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.worker_pool import KILLED, run_in_processes

EMOTIONS = "heads.emotions"


@dataclass(frozen=True)
class Fold:
    """One fold: its name, its manifest folder and its cache."""

    name: str
    manifest: Path
    cache: Path

    @property
    def settings(self) -> SweepSettings:
        """Data of the fold's runs."""
        return SweepSettings(self.manifest, self.cache, self.manifest / "test.jsonl")


@dataclass(frozen=True)
class _FoldJob:
    """A run on a fold."""

    fold: Fold
    job: Job

    @property
    def title(self) -> str:
        return f"{self.fold.name}, seed {self.job.seed}"


def find_folds(root: Path, cache: Path) -> list[Fold]:
    """The folds of a folder that `rellm prepare emobox` made, by number.

    Raises:
        ManifestError: there is none, or one has no test split.
    """
    numbers = {int(m[1]): p for p in root.glob("fold_*") if (m := re.search(r"_(\d+)$", p.name))}
    folds = [Fold(path.name, path, cache) for _, path in sorted(numbers.items())]
    if not folds:
        raise ManifestError(
            f"{root}: found no folder fold_1 …; expected the folds of `rellm prepare emobox`"
        )
    for fold in folds:
        for split in ("train", "test"):
            if not (fold.manifest / f"{split}.jsonl").exists():
                raise ManifestError(f"{fold.manifest}: found no {split}.jsonl; prepare it again")
    return folds


def benchmark(
    root: Path,
    cache: Path,
    out: Path,
    recipe: str | Recipe,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (1, 2, 3),
    processes: int = 1,
) -> BenchmarkReport:
    """Train and test a recipe on every fold with every seed; write the report after each run.

    The recipe's emotions become those of the folds, unless an override names them.

    Args:
        root: folder of the folds, as `rellm prepare emobox` makes.
        processes: runs at the same time.

    Raises:
        ManifestError: a fold cannot be read.
        ConfigError: the recipe cannot be run.
        StoreError: the cache lacks a store or clips.
        RunError: a run folder holds a run of another recipe or of other data.
    """
    folds = find_folds(root, cache)
    changes = (*_corpus_emotions(folds, recipe, overrides), *overrides)
    plan = SweepPlan(recipe, changes, seeds=tuple(seeds))
    jobs = [_FoldJob(fold, job) for fold in folds for job in plan.jobs(out / fold.name)]
    if any(item.job.recipe.text is not None for item in jobs):
        raise ConfigError("a recipe with [text] has nothing to train; choose one that hears speech")
    resources = SharedModels()
    for fold in folds:
        checked = [item.job for item in jobs if item.fold is fold]
        Sweeper(fold.settings, resources).check(checked)
    report = _report(folds, plan, jobs[0].job.recipe, out)
    for done, (item, run) in enumerate(_runs(jobs, processes, resources), 1):
        state = f"failed: {run.error}" if run.error else "done"
        say(f"Run {done} of {len(jobs)}, {item.title}: {state}")
        report.runs.append(_fold_run(item, run))
        report.runs.sort(key=lambda found: (found.number, found.seed))
        report.write()
    return report


def _corpus_emotions(
    folds: Sequence[Fold], recipe: str | Recipe, overrides: Sequence[str]
) -> tuple[str, ...]:
    """An override that names the emotions of the folds; none if the overrides name some."""
    if any(text.partition("=")[0].strip() == EMOTIONS for text in overrides):
        return ()
    own = load_recipe(recipe).heads.emotions
    found = {
        name
        for fold in folds
        for u in read_manifests(fold.manifest)
        for name in (u.soft_emotion or ([u.emotion] if u.emotion else ()))
    }
    emotions = (*(e for e in own if e in found), *sorted(found.difference(own)))
    if emotions == own:
        return ()
    say(f"Emotions of the folds: {', '.join(emotions)}")
    return override_texts({EMOTIONS: list(emotions)})


def _report(folds: Sequence[Fold], plan: SweepPlan, recipe: Recipe, out: Path) -> BenchmarkReport:
    prepared = [read_report(fold.manifest) or {} for fold in folds]
    corpora = {str(found.get("corpus", "")).removeprefix("emobox-") for found in prepared}
    if len(corpora) > 1:
        raise ManifestError(
            f"{folds[0].manifest.parent}: found folds of {', '.join(sorted(corpora))}; expected "
            "those of one corpus"
        )
    lacking = [
        f"{fold.name}: {total['found']} of {total['expected']} clips of {total['name']}"
        for fold, found in zip(folds, prepared, strict=True)
        for total in found.get("totals", [])
        if total["found"] != total["expected"]
    ]
    return BenchmarkReport(
        out=out,
        corpus=corpora.pop() or folds[0].manifest.parent.name,
        recipe=recipe,
        overrides=plan.overrides,
        folds=tuple(fold.name for fold in folds),
        seeds=plan.seeds,
        lacking=tuple(lacking),
    )


def _runs(
    jobs: Sequence[_FoldJob], processes: int, resources: SharedModels
) -> Iterator[tuple[_FoldJob, SweepRun]]:
    """Yield each job with its run, finished or failed."""
    if processes == 1:
        for item in jobs:
            yield item, Sweeper(item.fold.settings, resources).run(item.job)
        return
    for item in (yield from run_in_processes(_run_in_worker, jobs, processes)):
        say(f"Trying again alone: {item.title}")
        for _ in (yield from run_in_processes(_run_in_worker, [item], 1)):
            job = item.job
            yield item, SweepRun(job.variant, job.seed, job.out, error=KILLED)


_shared = SharedModels()  # of a worker process


def _run_in_worker(item: _FoldJob) -> SweepRun:
    return Sweeper(item.fold.settings, _shared).run(item.job)


def _fold_run(item: _FoldJob, run: SweepRun) -> FoldRun:
    """The scores of a run on its test clips, by the head and by the LLM."""
    found = FoldRun(item.fold.name, run.seed, run.out, run.seconds, error=run.error)
    if run.error:
        return found
    scores = read_object(run.out / SCORES, RunError, "remove the run's outcome.json, and repeat")
    parts: dict[str, Mapping[str, Any] | None] = {"head": scores["head"], "llm": scores["llm"]}
    return replace(
        found,
        clips=scores["clips"],
        scores={
            name: {"ua": part["ua"], "wa": part["accuracy"], "macro_f1": part["macro_f1"]}
            for name, part in parts.items()
            if part and "ua" in part
        },
    )
