"""Check of a folder of results: a run, a publication or an empathy scorer.

Every file is compared with its checksum, weights must be finite numbers, and checkpoints intact.
"""

from dataclasses import dataclass
from pathlib import Path

from rellm_cache.errors import RunError
from rellm_cache.runs.folder import CHECKPOINTS
from rellm_cache.runs.weights import RECIPE, WEIGHTS, read_tensors
from rellm_cache.utils.checksums import RESULTS, SUMS, find_damage, read_sums, record


@dataclass(frozen=True)
class CheckReport:
    """What a check found; names are relative to the folder.

    Attributes:
        intact: files with the bytes that were recorded, and intact checkpoints.
        damaged: file or checkpoint → what is wrong.
        unrecorded: files without a checksum: of older versions, or not by rellm.
    """

    folder: Path
    intact: list[str]
    damaged: dict[str, str]
    unrecorded: list[str]


def check_folder(folder: Path, accept: bool = False) -> CheckReport:
    """Check a run folder, a published folder or the folder of an empathy scorer.

    Args:
        accept: first record the checksums of all files as they are, also of an older version.

    Raises:
        RunError: the folder is none of these, its list of checksums cannot be read, or `accept` is
            asked for a published folder.
    """
    lists = [name for name in (RESULTS, SUMS) if (folder / name).is_file()]
    if not lists and not (folder / RECIPE).is_file():
        raise RunError(
            f"{folder}: found no {RESULTS}, {SUMS} or {RECIPE}, expected the folder of a run, of a "
            "publication or of an empathy scorer"
        )
    files = sorted(
        file.name
        for file in folder.iterdir()
        if file.is_file() and not file.name.startswith(".") and file.name not in (RESULTS, SUMS)
    )
    if accept:
        if SUMS in lists:
            raise RunError(
                f"{folder}: a published folder never changes; publish the run again, or get the "
                "folder again from where it came"
            )
        (folder / RESULTS).unlink(missing_ok=True)
        record(folder, files)
        lists = [RESULTS]
    recorded = {name for listed in lists for name in read_sums(folder / listed)}
    damaged = {n: text for listed in lists for n, text in find_damage(folder, listed).items()}
    checked = sorted(recorded - damaged.keys())
    weights = [WEIGHTS, f"{CHECKPOINTS}/best.safetensors"]
    for name in (name for name in weights if (folder / name).is_file() and name not in damaged):
        try:
            read_tensors(folder / name)
        except RunError as error:
            damaged[name] = str(error)
    for checkpoint in sorted((folder / CHECKPOINTS).glob("step-*")):
        name = f"{CHECKPOINTS}/{checkpoint.name}"
        checked.append(name)
        try:
            damaged |= {f"{name}/{n}": text for n, text in find_damage(checkpoint).items()}
        except RunError as error:
            damaged[name] = str(error)
    intact = [n for n in checked if not any(d == n or d.startswith(f"{n}/") for d in damaged)]
    return CheckReport(folder, intact, damaged, [n for n in files if n not in recorded])
