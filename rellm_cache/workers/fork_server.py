"""Fork server and process contexts for worker processes.

Importing a model's libraries takes seconds, so CPU workers are forked from a server that has
imported them. The server has one thread, opens no store and loads no model, so forking it is safe.
GPU workers are spawned: if an import in the server touched CUDA, no forked worker could use it.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext, SpawnContext

from rellm_cache.workers.messages import WorkerTask


@contextlib.contextmanager
def worker_context(task: WorkerTask) -> Iterator[ForkServerContext | SpawnContext]:
    """Context in which workers can be started; starts the fork server if one is needed.

    Workers ignore Ctrl-C from the start, because the coordinator handles it. A running fork server
    is reused: each worker imports what the server lacks.
    """
    if task.device is not None and task.device.type != "cpu":
        with _ignore_interrupts():
            yield get_context("spawn")
        return
    context = get_context("forkserver")
    context.set_forkserver_preload(task.modules)
    with _ignore_interrupts():
        forkserver.ensure_running()
    # The first worker waits for the server's imports. Ctrl-C works meanwhile.
    yield context


@contextlib.contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, and so do their children."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
