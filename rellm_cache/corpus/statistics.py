"""Statistics of a manifest and its report file: clips, speakers, durations, overlap of splits.

Splits overlap where they share speakers, texts or sounds; texts are compared without case and
punctuation, sounds by a digest of their samples.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

from rellm_cache.corpus.clip_limits import REPORT
from rellm_cache.corpus.dimensions import DIMENSIONS, DimensionSummary, Vad, summarize_dimensions
from rellm_cache.corpus.manifest import SPLITS, Utterance, read_manifests
from rellm_cache.corpus.splits import text_key
from rellm_cache.errors import ManifestError
from rellm_cache.utils.atomic_files import write_json
from rellm_cache.utils.json_files import read_object

ANNOTATIONS = "annotations.json"  # in the folder of a manifest with dimensions of an encoder
DURATION_EDGES = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30)  # seconds


Kind = Literal["speakers", "texts", "sounds"]


@dataclass(frozen=True)
class Overlap:
    """Speakers, texts or sounds that two splits share."""

    kind: Kind
    first: str  # split
    second: str  # later split, in the order train, validation, test
    shared: int  # number of speakers, texts or sounds in both
    clips: int  # clips of `second` with a shared one
    total: int  # clips of `second`


@dataclass(frozen=True)
class Survey:
    """Counts of a corpus or manifest."""

    hours: float  # hours of audio with known duration
    emotions: dict[str, dict[str, int]]  # split → emotion (or `none`) → clips
    speakers: dict[str, dict[str, int]]  # split → speaker → clips with a known speaker
    durations: dict[str, int]  # range of seconds, as `2-3 s` → clips
    without_text: int  # clips without a transcript
    dimensions: dict[str, DimensionSummary]  # source of the dimensions → their statistics
    overlaps: list[Overlap]  # for each pair of splits that share one

    @property
    def warnings(self) -> list[str]:
        """Likely mistakes in the dimensions, as sentences."""
        return [
            f"{source} dimensions: {warning}"
            for source, summary in self.dimensions.items()
            for warning in summary.warnings
        ]

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values, dimensions by name."""
        fields = dataclasses.asdict(self)
        for summary in fields["dimensions"].values():
            for key in ("low", "high"):
                summary[key] = _named(summary[key])
            summary["means"] = {e: _named(vad) for e, vad in summary["means"].items()}
        return fields


def survey(utterances: Sequence[Utterance], sounds: Mapping[str, str] | None = None) -> Survey:
    """Count utterances by split, emotion, speaker, duration and text, and check dimensions.

    Args:
        sounds: utterance id → digest of its samples; None if they are not known.
    """
    known = sounds or {}
    present = [s for s in (*SPLITS, "") if any(u.split == s for u in utterances)]
    parts = {split: [u for u in utterances if u.split == split] for split in present}
    rated: dict[str, list[tuple[str | None, Vad]]] = {}  # by source of the dimensions
    for u in utterances:
        if u.vad:
            rated.setdefault(u.vad_source or "human", []).append((u.emotion, u.vad))
    return Survey(
        hours=sum(u.duration or 0 for u in utterances) / 3600,
        emotions={s: _counts(u.emotion or "none" for u in part) for s, part in parts.items()},
        speakers={s: _counts(u.speaker for u in part if u.speaker) for s, part in parts.items()},
        durations=_histogram([u.duration for u in utterances if u.duration is not None]),
        without_text=sum(not u.text.strip() for u in utterances),
        dimensions={source: summarize_dimensions(rated[source]) for source in sorted(rated)},
        overlaps=[
            *_overlaps(parts, "speakers", lambda u: u.speaker),
            *_overlaps(parts, "texts", lambda u: text_key(u.text)),
            *_overlaps(parts, "sounds", lambda u: known.get(u.id, "")),
        ],
    )


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report that `prepare` wrote into a manifest folder; None if there is none.

    Raises:
        ManifestError: the file cannot be read, or holds no JSON object.
    """
    file = folder / REPORT
    if not file.exists():
        return None
    return read_object(file, ManifestError, "remove it, or prepare again")


def update_report(folder: Path, report: dict[str, Any]) -> None:
    """Replace the counts in a folder's report after its manifest has changed.

    Values that only `prepare` knows, such as totals, excluded clips and shared sounds, stay.
    """
    counts = survey(read_manifests(folder)).to_json()
    counts["overlaps"] += [o for o in report.get("overlaps", ()) if o["kind"] == "sounds"]
    document = {**report, **counts}
    write_json(folder / REPORT, document, ensure_ascii=False)


def _named(vad: Vad) -> dict[str, float]:
    return {name: round(value, 4) for name, value in zip(DIMENSIONS, vad, strict=True)}


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _histogram(seconds: Sequence[float]) -> dict[str, int]:
    """Count clips by duration. A range includes its lower end; outer empty ranges are left out."""
    names = [f"<{DURATION_EDGES[0]} s"]
    names += [f"{a}-{b} s" for a, b in pairwise(DURATION_EDGES)]
    names.append(f">={DURATION_EDGES[-1]} s")
    found = Counter(sum(edge <= s for edge in DURATION_EDGES) for s in seconds)
    if not found:
        return {}
    return {names[i]: found[i] for i in range(min(found), max(found) + 1)}


def _overlaps(
    parts: dict[str, list[Utterance]],
    kind: Kind,
    key: Callable[[Utterance], str],
) -> list[Overlap]:
    keys = {split: Counter(key(u) for u in part) for split, part in parts.items()}
    found = []
    for first, second in combinations(parts, 2):
        shared = (keys[first].keys() & keys[second].keys()) - {""}
        if shared:
            clips = sum(keys[second][k] for k in shared)
            found.append(Overlap(kind, first, second, len(shared), clips, len(parts[second])))
    return found
