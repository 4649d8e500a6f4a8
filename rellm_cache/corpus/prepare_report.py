"""The report beside a prepared manifest. In: its folder. Out: what it says, or counts made anew."""

from pathlib import Path
from typing import Any

from rellm_cache.corpus.manifest import read_manifests, write_json
from rellm_cache.corpus.statistics import survey
from rellm_cache.errors import ManifestError
from rellm_cache.utils.json_files import read_object

REPORT = "report.json"


def read_report(folder: Path) -> dict[str, Any] | None:
    """What `prepare` wrote about a manifest folder; None where it wrote nothing.

    Raises:
        ManifestError: the file cannot be read, or holds no JSON object.
    """
    file = folder / REPORT
    if not file.exists():
        return None
    return read_object(file, ManifestError, "remove it, or prepare again")


def renew_report(folder: Path, report: dict[str, Any]) -> None:
    """Count a folder's clips anew in its report, as its manifest has changed.

    What `prepare` alone knows, as totals and what it left out, stays as it is.
    """
    write_json(folder / REPORT, {**report, **survey(read_manifests(folder)).to_json()})
