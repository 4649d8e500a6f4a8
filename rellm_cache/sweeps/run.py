"""sweep. In: variants of a recipe and seeds. Out: a run folder for each, and their comparison.

    <out>/<variant>/seed-N/              an ordinary run folder, as `train` makes it
    <out>/<variant>/seed-N/outcome.json  its scores, once it is finished
    <out>/sweep.json, sweep.csv          the comparison, written anew after every run

All runs share one process, one frozen LLM and the open stores. What is finished is not run again,
what was interrupted goes on, and what fails is listed while the others are run.
"""

import dataclasses
import gc
import json
import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance, read_manifests, read_split
from rellm_cache.data.examples import learned_from, questions_of
from rellm_cache.errors import RellmError, RunError, reason_of
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.runs.folder import begin_run, require_data
from rellm_cache.runs.shared_models import Resources
from rellm_cache.sweeps.plan import Job, SweepPlan
from rellm_cache.sweeps.report import SweepReport, SweepRun, comparable, scores_by_name
from rellm_cache.training.run import train
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.console import say

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class SweepSettings:
    """Where the runs of a sweep train and are scored.

    Attributes:
        manifest: folder with train.jsonl and, to validate, validation.jsonl.
        cache: root of the stores.
        test: manifest to score finished runs on, or None.
        in_words: the LLM also names each test clip's emotion in words, which takes the longest.
    """

    manifest: Path
    cache: Path
    test: Path | None = None
    in_words: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to show, kept in its folder.

    Attributes:
        trained_on: digest of the data.
        seconds: of training.
        validation: scores of the kept checkpoint.
        tested_on: digest of the test data and how it was scored; empty where it was not.
        test: scores there.
    """

    trained_on: str
    seconds: float
    validation: dict[str, float]
    tested_on: str = ""
    test: dict[str, float] = dataclasses.field(default_factory=dict)


def sweep(plan: SweepPlan, setting: SweepSettings, out: Path) -> SweepReport:
    """Train and score every variant with every seed, or what is left of it.

    Raises:
        ConfigError: the plan cannot be run.
        ManifestError: a manifest cannot be read.
        StoreError: the cache lacks a store or clips.
        RunError: a run folder holds a run of another recipe or of other data, or there are
            several processes. All of these are raised before anything trains.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "a sweep runs in one process: start one for each GPU, with other --seeds and the same "
            "--out; the whole sweep's command then makes the table"
        )
    sweeper = _Sweeper(setting)
    jobs = plan.jobs(out)
    sweeper.check(jobs)
    report = SweepReport(out, plan, setting.manifest, setting.test, [])
    for number, job in enumerate(jobs, 1):
        say(f"Run {number} of {len(jobs)}: {job.title}")
        try:
            report.runs.append(sweeper.run(job))
        except KeyboardInterrupt:
            say(f"Interrupted in run {number} of {len(jobs)} ({job.title})")
            raise
        report.write()
        _say_what_is_left(report, jobs[number:])
    return report


def _say_what_is_left(report: SweepReport, jobs: Iterable[Job]) -> None:
    """An estimate from the runs there are: their mean time of training."""
    count = sum(not (job.out / OUTCOME).exists() for job in jobs)
    seconds = [run.seconds for run in report.runs if not run.error]
    if seconds and (minutes := count * sum(seconds) / len(seconds) / 60) >= 1:
        say(f"  about {minutes:.0f} min of training left")


class _Sweeper:
    """What all runs share: data, stores and the LLM."""

    def __init__(self, setting: SweepSettings) -> None:
        self.setting = setting
        self.resources = Resources()
        splits = [read_split(setting.manifest, "train"), []]
        if (setting.manifest / "validation.jsonl").exists():
            splits[1] = read_split(setting.manifest, "validation")
        self._splits = splits
        self._trained = [u for split in splits for u in split]
        self.needed = {setting.manifest: [u.id for u in self._trained]}
        self.tested_on = ""
        if setting.test is not None:
            tested = read_manifests(setting.test)
            self.tested_on = _identity(tested, in_words=setting.in_words)
            self.needed[setting.test] = [u.id for u in tested]
        self._noted: set[str] = set()

    def trained_on(self, recipe: Recipe) -> str:
        """Digest of the data that a recipe trains on, its questions among them."""
        found = questions_of(recipe, self.setting.manifest, ("train", "validation"))
        asked = {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()}
        return _identity(self._trained, **({"questions": asked} if asked else {}))

    def learned_from(self, recipe: Recipe) -> str:
        """The same as a run that is not finished notes it."""
        streams = self.resources.streams(recipe, self.setting.cache)
        questions = questions_of(recipe, self.setting.manifest, ("train", "validation"))
        return learned_from(self._splits, recipe, questions, streams)

    def check(self, jobs: Iterable[Job]) -> None:
        """Raise what would fail every run of a kind, before the first one begins."""
        checked = []
        for job in jobs:
            if job.recipe.text is None and job.recipe.encoders not in checked:
                streams = self.resources.streams(job.recipe, self.setting.cache)
                for manifest, ids in self.needed.items():
                    streams.require(ids, f"rellm extract {manifest} --recipe …")
                checked.append(job.recipe.encoders)
            trained_on = self.trained_on(job.recipe)
            if job.out.exists():
                begin_run(job.recipe, job.out)
            outcome = read_outcome(job.out)
            if outcome is not None and outcome.trained_on != trained_on:
                raise RunError(
                    f"{job.out}: this run was trained on other data than "
                    f"{self.setting.manifest} holds now; give the manifest it was trained on, or "
                    "choose another --out"
                )
            if job.recipe.text is None:  # of runs that are not finished too
                require_data(self.learned_from(job.recipe), job.out)

    def run(self, job: Job) -> SweepRun:
        """Train and score once; a failure is a result too."""
        gc.collect()  # the last run's model and optimiser, before this one's are made
        try:
            outcome = self._train(job)
            if self.tested_on and outcome.tested_on != self.tested_on:
                outcome = self._test(job, outcome)
        except Exception as error:  # whatever it is, the other runs are worth having
            reason = reason_of(error)
            found = "" if isinstance(error, RellmError) else traceback.format_exc()
            say(f"  failed: {reason}")
            return SweepRun(job.variant, job.seed, job.out, error=reason, traceback=found)
        scores = {f"validation.{k}": v for k, v in outcome.validation.items()}
        if self.tested_on:
            scores |= {f"test.{k}": v for k, v in outcome.test.items()}
        return SweepRun(job.variant, job.seed, job.out, outcome.seconds, scores)

    def _train(self, job: Job) -> Outcome:
        """The outcome of a finished run, trained now or before."""
        outcome = read_outcome(job.out)
        if outcome is not None:
            say("  finished before")
            return outcome
        report = train(
            job.recipe, self.setting.manifest, self.setting.cache, job.out, self.resources
        )
        for note in report.notes:
            if note not in self._noted:
                say(f"  note: {note}")
                self._noted.add(note)
        scores = comparable(report.validation, job.recipe)
        return _keep(job, Outcome(self.trained_on(job.recipe), report.seconds, scores))

    def _test(self, job: Job, outcome: Outcome) -> Outcome:
        """Its outcome with the scores on the test manifest."""
        setting = self.setting
        if setting.test is None:
            return outcome
        asked = EvaluationOptions(samples=0, in_words=setting.in_words)
        scores = evaluate(job.out, setting.test, setting.cache, asked, resources=self.resources)
        found = comparable(scores_by_name(scores), job.recipe)
        return _keep(job, dataclasses.replace(outcome, tested_on=self.tested_on, test=found))


def _identity(utterances: Iterable[Utterance], **how: Any) -> str:
    """Digest of all that training or scoring takes from utterances; where audio lies is not."""
    rows = [dataclasses.asdict(dataclasses.replace(u, audio="")) for u in utterances]
    return digest([rows, how])


def _keep(job: Job, outcome: Outcome) -> Outcome:
    """Write an outcome into the run folder."""
    write_json(job.out / OUTCOME, dataclasses.asdict(outcome))
    return outcome


def read_outcome(run: Path) -> Outcome | None:
    """The outcome of a run that a sweep finished, or None; `RunError` where it cannot be read."""
    path = run / OUTCOME
    if not path.exists():
        return None
    try:
        return Outcome(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{path}: not the outcome of a run ({error}); remove it, and it is made again from "
            "the run"
        ) from error
