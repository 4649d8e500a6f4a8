"""Where worker processes come from. In: a job. Out: the context to start its workers in.

Importing what an encoder needs takes seconds, so workers on a CPU are forked from a server that has
imported it. The server is a clean process of one thread that opens no store and loads no model: it
holds nothing that a fork would break. Workers on a GPU are spawned, since a single import that
touched CUDA in the server would leave all of them without.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext, SpawnContext

from rellm_cache.encoders.registry import encoder_module
from rellm_cache.extraction.messages import Job

PIPELINE = "rellm_cache.extraction.pipeline"


@contextlib.contextmanager
def worker_context(job: Job) -> Iterator[ForkServerContext | SpawnContext]:
    """Within it, a worker of this job may be started; there is a fork server, if it needs one.

    Workers ignore Ctrl-C from their first moment: the coordinator handles it. A fork server that
    runs already is taken as it is: what it lacks, each worker imports for itself.
    """
    if job.device is not None and job.device.type != "cpu":
        with _deaf_to_interrupts():
            yield get_context("spawn")
        return
    context = get_context("forkserver")
    context.set_forkserver_preload([PIPELINE, *sorted({encoder_module(s) for s in job.specs})])
    with _deaf_to_interrupts():
        forkserver.ensure_running()
    # The first worker waits for the server's imports. Ctrl-C is heard meanwhile.
    yield context


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started here ignores Ctrl-C, and so does what it forks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
