"""Measurement of a recipe's training steps on this machine, in a process of its own.

The process makes the peak of its memory that of this measurement alone.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from rellm_cache.config.schema import Recipe
from rellm_cache.errors import ConfigError, RellmError
from rellm_cache.speed.report import BenchReport

MOST_STEPS = 200


@dataclass(frozen=True)
class BenchSettings:
    """How a recipe is measured.

    Attributes:
        seconds: for everything; two steps are taken even if they need longer.
        random: take random weights although the LLM is here.
        memory_gb: memory of the GPU to imitate; None for all that it has.
        most_steps: most steps that count.
    """

    seconds: float = 120.0
    random: bool = False
    memory_gb: float | None = None
    most_steps: int = MOST_STEPS


def bench(recipe: Recipe, settings: BenchSettings) -> BenchReport:
    """Measure steps of a recipe in a new process.

    Raises:
        ConfigError: the recipe trains nothing by steps, needs data that cannot be made, its LLM's
            shape is not known, or a memory limit is asked for without a GPU.
        RellmError: the memory is too small, or the process ended without a result.
    """
    end = time.monotonic() + settings.seconds
    _require_steps(recipe)
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    arguments = (sending, recipe, settings, end)
    process = context.Process(target=_send_report, args=arguments, daemon=True)
    with _interrupts_ignored():  # in the new process: this one ends it
        process.start()
    sending.close()
    try:
        found = receiving.recv()
    except EOFError as error:
        raise RellmError(
            f"recipe {recipe.name!r}: the measuring process ended without a result; if nothing "
            "stands above, it was killed, perhaps for lack of memory"
        ) from error
    finally:
        process.kill()
        process.join()
    if isinstance(found, RellmError):
        raise found
    report: BenchReport = found
    return report


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _send_report(sending: Connection, recipe: Recipe, settings: BenchSettings, end: float) -> None:
    from rellm_cache.speed.measure import measure
    from rellm_cache.utils.devices import is_out_of_memory
    from rellm_cache.utils.worker_pool import end_with_parent

    end_with_parent()
    try:
        sending.send(measure(recipe, settings, end))
    except RellmError as error:
        sending.send(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        given = f"{settings.memory_gb:g} GB are" if settings.memory_gb else "the memory is"
        text = (
            f"recipe {recipe.name!r}: {given} too small for its model; `rellm plan --gpu-gb` "
            "prints the options that save memory, as --set llm.activation_checkpointing=true"
        )
        sending.send(RellmError(text))


def _require_steps(recipe: Recipe) -> None:
    """Raise `ConfigError` unless the recipe trains by steps."""
    if recipe.text is not None:
        raise ConfigError(f"recipe {recipe.name!r}: it reads text, and has nothing to train")
    if recipe.training.solver == "least_squares":
        raise ConfigError(
            f'recipe {recipe.name!r}: training.solver = "least_squares" fits the heads at once, '
            "without steps; measure another recipe, as `heads`"
        )
