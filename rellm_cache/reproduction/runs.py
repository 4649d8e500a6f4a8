"""Runs of Table I: each model is trained, answers and is evaluated on each fold.

<fold>/<row>/first/              the run that training starts from, if --first is given
<fold>/<row>/run/                run folder with scores.json and predictions.csv
<fold>/<row>/responses.jsonl     answers to the test split
<fold>/<row>/done.json           fingerprint of recipe and data, written last
"""

import json
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rellm_cache.config.recipes import identity_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import RellmError, RunError, reason_of
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.inference.generate import generate
from rellm_cache.reproduction.paper import Row
from rellm_cache.runs.shared_models import SharedModels
from rellm_cache.runs.weights import CONFIG, RECIPE, WEIGHTS
from rellm_cache.training.run import train
from rellm_cache.utils.atomic_files import write_text
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.regular_files import file_digest
from rellm_cache.utils.resumable_table import FINGERPRINT, fingerprint_of
from rellm_cache.utils.worker_pool import KILLED, run_in_processes

DONE, FIRST, RUN, RESPONSES = "done.json", "first", "run", "responses.jsonl"


@dataclass(frozen=True)
class Model:
    """How the model of a row is made."""

    recipe: Recipe
    # Run folder of a model that needs no training; None if `recipe` is trained.
    ready: Path | None = None
    # Recipe that is trained first; `recipe` starts from its weights. Or None.
    first: Recipe | None = None


@dataclass(frozen=True)
class Job:
    """A row of the table on a fold."""

    fold: str
    row: Row
    model: Model
    manifest: Path  # of the fold
    cache: Path  # root of the stores
    out: Path  # `<reproduction>/<fold>/<row>`
    batch_size: int  # clips answered at a time

    @property
    def title(self) -> str:
        """Name of the job in messages."""
        return f"{self.fold}, {self.row.name}"

    @property
    def run(self) -> Path:
        """Run folder of the model."""
        return self.out / RUN

    def fingerprint(self) -> str:
        """Digest of recipe and data, without their paths."""
        data = [
            [u.id, u.text, u.emotion, u.vad, u.response]
            for split in ("train", "validation", "test")
            if (self.manifest / f"{split}.jsonl").exists()
            for u in read_split(self.manifest, split)
        ]
        first, ready = self.model.first, self.model.ready
        made = [identity_toml(self.model.recipe), first and identity_toml(first), data]
        if ready is not None:
            made.append(file_digest(ready / WEIGHTS))
        return digest(made)

    def is_done(self) -> bool:
        """Whether the results exist.

        Raises:
            RunError: they come from another recipe or other data, or `done.json` is damaged.
        """
        path = self.out / DONE
        if not path.exists():
            return False
        found = read_object(path, RunError, "remove it; the finished run is not trained again")
        if fingerprint_of(found) != self.fingerprint():
            raise RunError(
                f"{self.out}: holds results of another recipe or of other data; choose another "
                "--out, or remove this folder"
            )
        return True


@dataclass(frozen=True)
class Failure:
    """A failed job and the reason."""

    title: str
    reason: str


def run_jobs(jobs: Sequence[Job], processes: int) -> Iterator[Failure]:
    """Run the jobs that are not done, `processes` at a time; yield each failure at once.

    One process shares the LLM and the stores among jobs; more processes are for CPUs.
    """
    left = [job for job in jobs if not job.is_done()]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} models are already done")
    if processes == 1:
        for number, job in enumerate(left, 1):
            say(f"Model {number} of {len(left)}: {job.title}")
            if reason := try_job(job):
                yield Failure(job.title, reason)
        return
    for job in (yield from _run_together(left, processes)):
        say(f"Trying again alone: {job.title}")
        if (yield from _run_together([job], 1)):
            yield Failure(job.title, KILLED)


def _run_together(jobs: Sequence[Job], processes: int) -> Generator[Failure, None, list[Job]]:
    """Yield failures at once; return the jobs that were aborted because a worker was killed."""
    running = run_in_processes(try_job, jobs, processes)
    number = 0
    while True:
        try:
            job, reason = next(running)
        except StopIteration as end:
            broken: list[Job] = end.value
            return broken
        number += 1
        say(f"Model {number} of {len(jobs)} {'failed' if reason else 'is done'}: {job.title}")
        if reason:
            yield Failure(job.title, reason)


_shared = SharedModels()


def try_job(job: Job) -> str:
    """Do a job; return the reason for a failure, or an empty string."""
    try:
        do_job(job, _shared)
    except Exception as error:  # any error: the other models continue
        if not isinstance(error, RellmError):
            say(traceback.format_exc())
        reason = reason_of(error)
        say(f"  failed: {job.title}: {reason}")
        return reason
    return ""


def do_job(job: Job, resources: SharedModels) -> None:
    """Train a model, answer the test split and evaluate.

    Raises:
        RellmError: a step failed.
    """
    test = job.manifest / "test.jsonl"
    model = job.model
    if model.ready is not None:
        link_run(model.ready, job.run)
    else:
        recipe = model.recipe
        if model.first is not None:
            start = job.out / FIRST
            train(model.first, job.manifest, job.cache, start, resources)
            recipe = replace(recipe, training=replace(recipe.training, init_from=str(start)))
        train(recipe, job.manifest, job.cache, job.run, resources)
    responses = job.out / RESPONSES
    generate(job.run, test, responses, job.cache, batch_size=job.batch_size, resources=resources)
    evaluate(
        job.run, test, job.cache, EvaluationOptions(samples=0, overwrite=True), resources=resources
    )
    write_text(job.out / DONE, json.dumps({FINGERPRINT: job.fingerprint()}) + "\n")


def link_run(ready: Path, run: Path) -> None:
    """Make the run folder `run` with links to the files of `ready`."""
    run.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG, RECIPE):
        link = run / name
        link.unlink(missing_ok=True)  # a link to another run
        link.symlink_to((ready / name).resolve())
