"""Worker: one job after another, bounded, cancelled when nobody reads, ended by close."""

import threading
from typing import Any

import pytest

from rellm_cache.errors import RellmError
from rellm_cache.serving.errors import QueueFullError, StoppedError
from rellm_cache.serving.worker import Worker


def test_events_come_in_order_and_jobs_do_not_overlap() -> None:
    worker = Worker(waiting=8)
    busy: list[int] = []

    def work(number: int, emit: Any) -> None:
        busy.append(number)
        for step in range(3):
            assert busy == [number]
            emit((number, step))
        busy.remove(number)

    jobs = [worker.start(lambda emit, n=n: work(n, emit)) for n in range(4)]
    assert [list(job) for job in jobs] == [[(n, s) for s in range(3)] for n in range(4)]
    assert list(jobs[0]) == []
    worker.close()


def test_an_error_reaches_the_reader_and_the_next_job_runs() -> None:
    worker = Worker(waiting=2)

    def fail(emit: Any) -> None:
        emit("before")
        raise RellmError("no such clip")

    job = worker.start(fail)
    assert next(job) == "before"
    with pytest.raises(RellmError, match="no such clip"):
        next(job)
    assert list(worker.start(lambda emit: emit(1))) == [1]
    worker.close()


def test_a_job_ends_when_nobody_reads_it() -> None:
    worker = Worker(waiting=2)
    steps: list[int] = []
    read = threading.Event()

    def count(emit: Any) -> None:
        for step in range(1000):
            steps.append(step)
            emit(step)
            read.wait(30)

    job = worker.start(count)
    assert next(job) == 0
    waiting = worker.start(count)
    waiting.close()
    job.close()
    read.set()
    assert list(worker.start(lambda emit: emit("next"))) == ["next"]
    assert len(steps) == 2  # of the first job alone
    worker.close()


def test_a_full_queue_refuses_and_close_ends_all() -> None:
    worker = Worker(waiting=1)
    started, release = threading.Event(), threading.Event()

    def block(emit: Any) -> None:
        started.set()
        release.wait(30)
        emit("too late")

    running = worker.start(block)
    assert started.wait(30)
    waiting = worker.start(block)
    assert worker.is_full
    with pytest.raises(QueueFullError, match="1 requests wait"):
        worker.start(block)
    ended = threading.Thread(target=worker.close)
    ended.start()
    with pytest.raises(StoppedError):
        next(waiting)
    release.set()
    with pytest.raises(StoppedError):
        next(running)
    ended.join()
    with pytest.raises(StoppedError, match="start it again"):
        worker.start(block)
    worker.close()  # again: nothing happens
