"""One model on one fold. In: a recipe and the fold's manifest. Out: its answers and its labels.

<fold>/<row>/first/              the run it starts from, where one is asked for
<fold>/<row>/run/                an ordinary run folder, with scores.json and predictions.csv
<fold>/<row>/responses.jsonl     answers to the test split
<fold>/<row>/done.json           what it was made from, written last
"""

import json
import multiprocessing
import os
import threading
import traceback
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rellm_cache.config.recipes import to_toml
from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import read_split
from rellm_cache.errors import RellmError, RunError, reason_of
from rellm_cache.evaluation.run import EvaluationOptions, evaluate
from rellm_cache.inference.generate import generate
from rellm_cache.reproduction.paper import Row
from rellm_cache.runs.shared_models import Resources
from rellm_cache.runs.weights import CONFIG, RECIPE, WEIGHTS
from rellm_cache.training.run import train
from rellm_cache.utils.atomic_files import write_text
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.model_files import file_digest

DONE, FIRST, RUN, RESPONSES = "done.json", "first", "run", "responses.jsonl"


@dataclass(frozen=True)
class Model:
    """How the model of a row is made.

    Attributes:
        recipe: as resolved.
        ready: run folder of a model that is asked as it is; None where `recipe` makes one.
        first: recipe whose run `recipe` starts from, or None.
    """

    recipe: Recipe
    ready: Path | None = None
    first: Recipe | None = None


@dataclass(frozen=True)
class Job:
    """A row of the table on a fold.

    Attributes:
        fold: its name.
        row: which model.
        model: how it is made.
        manifest: of the fold.
        cache: root of the stores.
        out: `<reproduction>/<fold>/<row>`.
        batch_size: clips answered at a time.
    """

    fold: str
    row: Row
    model: Model
    manifest: Path
    cache: Path
    out: Path
    batch_size: int

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"{self.fold}, {self.row.name}"

    @property
    def run(self) -> Path:
        """The run folder that answers."""
        return self.out / RUN

    def identity(self) -> str:
        """What its results follow from: recipe and data, wherever they lie."""
        data = [
            [u.id, u.text, u.emotion, u.vad, u.response]
            for split in ("train", "validation", "test")
            if (self.manifest / f"{split}.jsonl").exists()
            for u in read_split(self.manifest, split)
        ]
        first, ready = self.model.first, self.model.ready
        made = [to_toml(self.model.recipe), first and to_toml(first), data]
        if ready is not None:
            made.append(file_digest(ready / WEIGHTS))
        return digest(made)

    def is_done(self) -> bool:
        """Whether its results are there.

        Raises:
            RunError: there are results of another recipe or of other data, or it cannot be told.
        """
        path = self.out / DONE
        if not path.exists():
            return False
        found = read_object(path, RunError, "remove it: what its run holds is not trained again")
        if found.get("identity") != self.identity():
            raise RunError(
                f"{self.out}: holds results of another recipe or of other data; choose another "
                "--out, or remove this folder to make it anew"
            )
        return True


@dataclass(frozen=True)
class Failure:
    """A job that could not be done, and why."""

    title: str
    reason: str


def run_jobs(jobs: Sequence[Job], processes: int) -> Iterator[Failure]:
    """Do what is not done yet, several at a time; those that fail, when they fail.

    In one process the LLM and the stores are shared; more processes are for CPUs.
    """
    left = [job for job in jobs if not job.is_done()]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} models were trained and asked before")
    if processes == 1:
        for number, job in enumerate(left, 1):
            say(f"Model {number} of {len(left)}: {job.title}")
            if reason := try_job(job):
                yield Failure(job.title, reason)
        return
    for job in (yield from _run_together(left, processes)):
        say(f"Again, by itself: {job.title}")
        if (yield from _run_together([job], 1)):
            yield Failure(job.title, "its worker was killed, by a lack of memory perhaps")


def _run_together(jobs: Sequence[Job], processes: int) -> Generator[Failure, None, list[Job]]:
    """Failures, when they happen; in the end the jobs that a killed worker took along.

    A pool is at an end with one of its workers, whoever's job it was.
    """
    torn = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(processes, len(jobs)) or 1, context, _begin_worker, (processes,)
    ) as pool:
        started = {pool.submit(try_job, job): job for job in jobs}
        for number, future in enumerate(as_completed(started), 1):
            job = started[future]
            try:
                reason = future.result()
            except BrokenProcessPool:
                torn.append(job)
                continue
            say(f"Model {number} of {len(jobs)} {'failed' if reason else 'is done'}: {job.title}")
            if reason:
                yield Failure(job.title, reason)
    return torn


def _begin_worker(processes: int) -> None:
    """Take a share of the processors, and end when the parent does, however that is.

    A worker that outlived it would go on writing to a run that the same command takes up again.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


_shared = Resources()


def try_job(job: Job) -> str:
    """Do a job; why it failed, or nothing."""
    try:
        do_job(job, _shared)
    except Exception as error:  # whatever it is, the other models are worth having
        if not isinstance(error, RellmError):
            say(traceback.format_exc())
        reason = reason_of(error)
        say(f"  failed: {job.title}: {reason}")
        return reason
    return ""


def do_job(job: Job, resources: Resources) -> None:
    """Train, answer the test split, name its emotions.

    Raises:
        RellmError: whatever a stage says.
    """
    test = job.manifest / "test.jsonl"
    model = job.model
    if model.ready is not None:
        borrow(model.ready, job.run)
    else:
        recipe = model.recipe
        if model.first is not None:
            start = job.out / FIRST
            train(model.first, job.manifest, job.cache, start, resources)
            recipe = starting_from(recipe, start)
        train(recipe, job.manifest, job.cache, job.run, resources)
    responses = job.out / RESPONSES
    generate(job.run, test, responses, job.cache, batch_size=job.batch_size, resources=resources)
    evaluate(job.run, test, job.cache, EvaluationOptions(samples=0), resources=resources)
    write_text(job.out / DONE, json.dumps({"identity": job.identity()}) + "\n")


def starting_from(recipe: Recipe, run: Path) -> Recipe:
    """The recipe, whose training starts from a run's weights."""
    return replace(recipe, training=replace(recipe.training, init_from=str(run)))


def borrow(ready: Path, run: Path) -> None:
    """Make a run folder of another's weights without copying them."""
    run.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG, RECIPE):
        link = run / name
        link.unlink(missing_ok=True)  # of a run that was lent before
        link.symlink_to((ready / name).resolve())
