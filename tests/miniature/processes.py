"""Commands and functions in forked children, which share the imports of the test.

A child can be given a limit, be killed, or run beside another one; what it prints goes to a file.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Ended:
    """A child that has ended: exit code, below 0 for a signal; what it printed; wall seconds."""

    code: int
    output: str
    seconds: float

    @property
    def has_traceback(self) -> bool:
        """Whether it printed a traceback."""
        return "Traceback (most recent call last)" in self.output


def fork(work: Callable[[], object], log: Path, **environment: str) -> int:
    """Begin `work` in a child of its own group that prints to a file; its process id.

    An exception is printed and ends the child with 1, a SystemExit with its code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.environ.update(environment)
        torch.set_num_threads(1)  # threads of the parent's pool are not here
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child, below 0 for a signal; None if it still runs after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def kill(pid: int) -> None:
    """End a child and its children, and wait for it."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not made its group yet
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run(work: Callable[[], object], log: Path, seconds: float = 120.0) -> Ended:
    """Run `work` in a child to its end; `TimeoutError` if it takes longer than `seconds`."""
    log.unlink(missing_ok=True)
    begun = time.monotonic()
    pid = fork(work, log)
    code = wait(pid, seconds)
    output = log.read_text("utf-8", "replace") if log.exists() else ""
    if code is None:
        kill(pid)
        raise TimeoutError(f"still running after {seconds} s: {output[-2000:]}")
    return Ended(code, output, time.monotonic() - begun)


def command(
    arguments: list[str], folder: Path, file_bytes: int | None = None
) -> Callable[[], object]:
    """A call of the command line in a folder, for `fork` and `run`.

    Args:
        file_bytes: no file can be written beyond this size, as on a disk that is full.
    """

    def work() -> None:
        from rellm_cache.cli import main

        os.chdir(folder)
        if file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        main(arguments)

    return work
