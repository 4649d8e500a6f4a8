"""Sweep: training and scoring of variants of a recipe, each with several seeds.

    <out>/<variant>/seed-N/              a run folder, as written by `train`
    <out>/<variant>/seed-N/outcome.json  its scores, written when it is finished
    <out>/sweep.json, sweep.csv          the comparison, replaced after every run

All runs share one process, one frozen LLM and the open stores. Finished runs are not repeated,
interrupted runs resume, and failed runs are listed while the others continue.
"""

import dataclasses
import gc
import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.manifest import Utterance, read_manifests, read_split
from rellm_cache.corpus.speed_copies import clips_to_encode, read_training_clips
from rellm_cache.data.examples import Questions, data_digest, load_questions
from rellm_cache.data.speaker_normalization import normalize_speakers
from rellm_cache.errors import RellmError, RunError, reason_of
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.runs.folder import DATA, create_run_folder, require_same_data
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.sweeps.plan import Job, SweepPlan
from rellm_cache.sweeps.report import SweepReport, SweepRun, comparable_scores, scores_by_name
from rellm_cache.training.label_check import require_listed_emotions
from rellm_cache.training.run import require_validation, train
from rellm_cache.training.trackers import require_tracker
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.checksums import recorded, require_intact
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import build_record, read_object
from rellm_cache.utils.locks import hold_folder

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class SweepSettings:
    """Data of a sweep's runs.

    Attributes:
        test: manifest to score finished runs on, or None.
        in_words: let the LLM also answer each test clip's emotion in words; the slowest part.
    """

    manifest: Path
    cache: Path
    test: Path | None = None
    in_words: bool = False


@dataclass(frozen=True)
class Outcome:
    """Scores of a finished run, stored in its folder.

    Attributes:
        trained_on: digest of the training data.
        seconds: time of training.
        tested_on: digest of the test data and the way of scoring; empty if not scored.
    """

    trained_on: str
    seconds: float
    validation: dict[str, float]
    tested_on: str = ""
    test: dict[str, float] = dataclasses.field(default_factory=dict)


def sweep(plan: SweepPlan, settings: SweepSettings, out: Path) -> SweepReport:
    """Train and score every variant with every seed; finished runs are skipped.

    The errors below are raised before anything trains.

    Raises:
        ConfigError: the plan cannot be run.
        ManifestError: a manifest cannot be read.
        StoreError: the cache lacks a store or clips.
        RunError: a run folder holds a run of another recipe or of other data, or there are several
            processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError(
            "a sweep runs in one process: start one for each GPU, with other --seeds and the same "
            "--out; then run the command with all seeds to make the table"
        )
    sweeper = Sweeper(settings)
    jobs = plan.jobs(out)
    sweeper.check(jobs)
    report = SweepReport(out, plan, settings.manifest, settings.test, [])
    for number, job in enumerate(jobs, 1):
        say(f"Run {number} of {len(jobs)}: {job.title}")
        try:
            report.runs.append(sweeper.run(job))
        except KeyboardInterrupt:
            say(f"Interrupted in run {number} of {len(jobs)} ({job.title})")
            raise
        report.write()
        _say_time_left(report, jobs[number:])
    return report


def _say_time_left(report: SweepReport, jobs: Iterable[Job]) -> None:
    """Report the remaining training time, estimated from the mean time of finished jobs."""
    count = sum(not (job.out / OUTCOME).exists() for job in jobs)
    seconds = [run.seconds for run in report.runs if not run.error]
    if seconds and (minutes := count * sum(seconds) / len(seconds) / 60) >= 1:
        say(f"  about {minutes:.0f} min of training left")


class Sweeper:
    """Data, stores and the LLM that all runs of a sweep share.

    Raises:
        ManifestError: a manifest cannot be read.
    """

    def __init__(self, settings: SweepSettings, resources: SharedModels | None = None) -> None:
        self.settings = settings
        self.resources = resources or SharedModels()
        splits = [read_split(settings.manifest, "train"), []]
        if (settings.manifest / "validation.jsonl").exists():
            splits[1] = read_split(settings.manifest, "validation")
        self._splits = splits
        self._trained = [u for split in splits for u in split]
        self.needed = {settings.manifest: self._trained}
        self.tested_on = ""
        if settings.test is not None:
            tested = read_manifests(settings.test)
            self.tested_on = _data_digest(tested, in_words=settings.in_words)
            self.needed[settings.test] = tested
        self._notes_shown: set[str] = set()

    def trained_on(self, recipe: Recipe) -> str:
        """Digest of a recipe's training data, for `outcome.json`."""
        found = self._questions(recipe)
        asked = {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()}
        return _data_digest(self._trained, **({"questions": asked} if asked else {}))

    def data_digest(self, recipe: Recipe) -> str:
        """Digest of a recipe's training data, for the `data.sha256` of an unfinished run."""
        streams = self.resources.streams(recipe.encoders, self.settings.cache)
        questions = self._questions(recipe)
        clips = read_training_clips(self.settings.manifest, recipe.training.speed_copies)
        streams = normalize_speakers(streams, recipe.encoders, [*clips, *self._splits[1]])
        return data_digest([clips, self._splits[1]], recipe.losses, questions, streams)

    def _questions(self, recipe: Recipe) -> Questions:
        splits = ("train", "validation")
        return load_questions(recipe.losses, recipe.qa, self.settings.manifest, splits)

    def check(self, jobs: Iterable[Job]) -> None:
        """Raise the errors of any job before the first one runs."""
        checked = []
        for job in jobs:
            if job.recipe.text is None:
                require_validation(job.recipe, self.settings.manifest)
                require_tracker(job.recipe.training.tracker)
                if not (job.out / DATA).exists():
                    require_listed_emotions(self._trained, job.recipe, self.settings.manifest)
            recipe = job.recipe
            heard = (recipe.encoders, recipe.training.speed_copies, recipe.heads.speed_copies)
            if recipe.text is None and heard not in checked:
                streams = self.resources.streams(recipe.encoders, self.settings.cache)
                for manifest, utterances in self.needed.items():
                    clips = clips_to_encode(utterances, recipe, read_limits(manifest))
                    streams.require([u.id for u in clips], f"rellm extract {manifest} --recipe …")
                checked.append(heard)
            trained_on = self.trained_on(job.recipe)
            if job.out.exists():
                create_run_folder(job.recipe, job.out)
            outcome = read_outcome(job.out)
            if outcome is not None and outcome.trained_on != trained_on:
                raise RunError(
                    f"{job.out}: this run was trained on other data than "
                    f"{self.settings.manifest} holds now; give the manifest it was trained on, or "
                    "choose another --out"
                )
            if job.recipe.text is None:  # unfinished runs have only this digest
                require_same_data(self.data_digest(job.recipe), job.out)

    def run(self, job: Job) -> SweepRun:
        """Train and score one job; a failure is returned as a result."""
        gc.collect()  # free the last run's model and optimizer first
        try:
            outcome = self._train(job)
            if self.tested_on and outcome.tested_on != self.tested_on:
                outcome = self._test(job, outcome)
        except Exception as error:  # any error: the other runs continue
            reason = reason_of(error)
            found = "" if isinstance(error, RellmError) else traceback.format_exc()
            say(f"  failed: {reason}")
            return SweepRun(job.variant, job.seed, job.out, error=reason, traceback=found)
        scores = {f"validation.{k}": v for k, v in outcome.validation.items()}
        if self.tested_on:
            scores |= {f"test.{k}": v for k, v in outcome.test.items()}
        return SweepRun(job.variant, job.seed, job.out, outcome.seconds, scores)

    def _train(self, job: Job) -> Outcome:
        """The outcome of a job; train it if it is not finished."""
        outcome = read_outcome(job.out)
        if outcome is not None:
            say("  already finished")
            return outcome
        report = train(
            job.recipe, self.settings.manifest, self.settings.cache, job.out, self.resources
        )
        for note in report.notes:
            if note not in self._notes_shown:
                say(f"  note: {note}")
                self._notes_shown.add(note)
        scores = comparable_scores(report.validation, job.recipe.losses)
        return _write_outcome(job, Outcome(self.trained_on(job.recipe), report.seconds, scores))

    def _test(self, job: Job, outcome: Outcome) -> Outcome:
        """Score a run on the test manifest; return its outcome with these scores."""
        settings = self.settings
        if settings.test is None:
            return outcome
        asked = EvaluationOptions(samples=0, in_words=settings.in_words, overwrite=True)
        scores = evaluate(job.out, settings.test, settings.cache, asked, resources=self.resources)
        found = comparable_scores(scores_by_name(scores), job.recipe.losses)
        return _write_outcome(
            job, dataclasses.replace(outcome, tested_on=self.tested_on, test=found)
        )


def _data_digest(utterances: Iterable[Utterance], **how: Any) -> str:
    """Digest of all utterance fields that training or scoring uses, without audio paths."""
    rows = [dataclasses.asdict(dataclasses.replace(u, audio="")) for u in utterances]
    for row in rows:  # a field that digests of older outcomes do not have
        if row["soft_emotion"] is None:
            del row["soft_emotion"]
    return digest([rows, how])


def _write_outcome(job: Job, outcome: Outcome) -> Outcome:
    with hold_folder(job.out), recorded(job.out, OUTCOME):
        write_json(job.out / OUTCOME, dataclasses.asdict(outcome))
    return outcome


def read_outcome(run: Path) -> Outcome | None:
    """The outcome of a finished run, or None; `RunError` if the file cannot be read."""
    path = run / OUTCOME
    if not path.exists():
        return None
    require_intact(path, "remove it, and the sweep writes it again from the run")
    fix = "remove it, and the sweep writes it again from the run"
    try:
        return build_record(Outcome, read_object(path, RunError, fix))
    except ValueError as error:
        raise RunError(f"{path}: not the outcome of a run ({error}); {fix}") from error
