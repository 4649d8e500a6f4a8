"""Overwriting: no command replaces its input, or a file that another command or a person made."""

from collections.abc import Iterable
from pathlib import Path

from rellm_cache.errors import RellmError

REMEDY = "choose another --out, or replace it with --overwrite"


def refuse_input(out: Path, inputs: Iterable[Path]) -> None:
    """Raise `RellmError` if an output is one of the inputs, by whatever name or link."""
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise RellmError(f"{out}: is an input of this command; {REMEDY}")


def overwriting(out: Path, expected: str, remedy: str = REMEDY) -> RellmError:
    """The error for an output that exists and is not what this command made."""
    return RellmError(f"{out}: is there already, and is not {expected}; {remedy}")
