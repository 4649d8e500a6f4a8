"""Names of served runs: the end of each path that tells it from the others."""

from collections.abc import Sequence
from pathlib import Path

from rellm_cache.errors import RunError


def run_names(runs: Sequence[Path]) -> list[str]:
    """A name for each run folder: `small`, or `a/small` and `b/small`.

    Raises:
        RunError: a run is given twice.
    """
    parts = [run.resolve().parts[1:] for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise RunError(f"{runs[0]}: given twice; name two different runs to compare them")
