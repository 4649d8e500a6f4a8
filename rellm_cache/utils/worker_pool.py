"""Worker pool: jobs in several processes that end with their parent, and survive a killed worker.

When the system kills one worker, for example for lack of memory, the pool ends and aborts all of
its jobs; these are returned, and can be tried again alone.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from rellm_cache.utils.devices import threads_each

Job = TypeVar("Job")
Result = TypeVar("Result")

KILLED = "its worker was killed, perhaps for lack of memory"


def run_in_processes(
    task: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Generator[tuple[Job, Result], None, list[Job]]:
    """Run `task` for each job, `processes` at a time; yield each job with its result at once.

    Args:
        task: a function of a module; it raises nothing.

    Returns:
        The jobs that were aborted because a worker was killed.
    """
    broken = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(processes, len(jobs)) or 1, context, begin_worker, (processes,)
    ) as pool:
        started = {pool.submit(task, job): job for job in jobs}
        for future in as_completed(started):
            job = started[future]
            try:
                result = future.result()
            except BrokenProcessPool:
                broken.append(job)
                continue
            yield job, result
    return broken


def begin_worker(processes: int) -> None:
    """Take a share of the CPU threads, and end with the parent process, even if it is killed.

    Otherwise it could write to a run that the next command already continues.
    """
    torch.set_num_threads(threads_each(processes))
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent has ended, in any way."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
