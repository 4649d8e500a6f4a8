"""The report beside a prepared manifest. In: its folder. Out: what it says, or counts made anew."""

import json
from pathlib import Path
from typing import Any

from rellm_cache.corpus.manifest import read_manifests, write_json
from rellm_cache.corpus.survey import survey
from rellm_cache.errors import ManifestError

REPORT = "report.json"


def read_report(folder: Path) -> dict[str, Any] | None:
    """What `prepare` wrote about a manifest folder; None where it wrote nothing.

    Raises:
        ManifestError: the file holds no JSON object.
    """
    file = folder / REPORT
    try:
        report = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ManifestError(f"{file}: not JSON ({error}); remove it, or prepare again") from error
    if not isinstance(report, dict):
        raise ManifestError(
            f"{file}: expected a JSON object, found {report!r:.40}; remove it, or prepare again"
        )
    return report


def renew_report(folder: Path, report: dict[str, Any]) -> None:
    """Count a folder's clips anew in its report, as its manifest has changed.

    What `prepare` alone knows, as totals and what it left out, stays as it is.
    """
    write_json(folder / REPORT, {**report, **survey(read_manifests(folder)).to_json()})
