"""Functions of `phantom_runs`, each run in its own process: importing it changes torch."""

import importlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def run_there(job: str, *arguments: Any) -> Any:
    """What the function returns; its exceptions are raised here."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_call, job, arguments).result()


def _call(job: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(importlib.import_module("phantom_runs"), job)(*arguments)
