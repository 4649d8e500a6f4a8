"""Limits of usable clips: duration and signal, chosen by `prepare` and recorded in its report.

Every command that decodes a manifest's clips reads the limits of that manifest, so all commands
use the same clips. A manifest without a report has the default limits.
"""

from dataclasses import dataclass
from pathlib import Path

from rellm_cache.corpus.field_validation import is_number
from rellm_cache.errors import AudioError, ManifestError
from rellm_cache.utils.json_files import read_object

REPORT = "report.json"  # in the folder of a prepared manifest
SAMPLE_RATE = 16_000
MIN_SECONDS, MAX_SECONDS = 1.0, 30.0  # default limits
# The range of both limits: an encoder needs at least a few frames, and Whisper's window is 30 s.
SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 30.0
CUT = "cut it into segments, as `rellm prepare --split-long` does"


class UnsuitableAudioError(AudioError):
    """A clip can be read, but the limits leave it out."""


class TooLongError(UnsuitableAudioError):
    """A clip is longer than the limits allow; `prepare` can cut it into segments."""


@dataclass(frozen=True)
class ClipLimits:
    """Which clips are usable.

    Attributes:
        min_seconds: shorter clips are left out.
        max_seconds: longer clips are left out.
        keep_silent: whether clips without a signal are kept, and clips whose channels cancel.

    Raises:
        ManifestError: the limits are not 0.1 s <= min_seconds <= max_seconds <= 30 s.
    """

    min_seconds: float = MIN_SECONDS
    max_seconds: float = MAX_SECONDS
    keep_silent: bool = False

    def __post_init__(self) -> None:
        if not SHORTEST_SECONDS <= self.min_seconds <= self.max_seconds <= LONGEST_SECONDS:
            raise ManifestError(
                f"found limits {self.min_seconds:g} s and {self.max_seconds:g} s, expected "
                f"{SHORTEST_SECONDS:g} s <= min_seconds <= max_seconds <= {LONGEST_SECONDS:g} s"
            )

    def require_length(self, samples: int, audio: str) -> None:
        """Raise `UnsuitableAudioError` unless a clip of (samples,) at 16 kHz is usable."""
        seconds = samples / SAMPLE_RATE
        if seconds < self.min_seconds:
            shown = _digits_that_differ(seconds, self.min_seconds)
            raise UnsuitableAudioError(f"{audio}: too short, {shown} s < {self.min_seconds:g} s")
        if seconds > self.max_seconds:
            shown = _digits_that_differ(seconds, self.max_seconds)
            raise TooLongError(f"{audio}: too long, {shown} s > {self.max_seconds:g} s; {CUT}")


DEFAULT_LIMITS = ClipLimits()
# Every clip that some manifest may hold.
WIDEST_LIMITS = ClipLimits(SHORTEST_SECONDS, LONGEST_SECONDS, keep_silent=True)


def read_limits(manifest: Path) -> ClipLimits:
    """The limits with which a manifest was prepared.

    Args:
        manifest: folder of a manifest, or one of its files.

    Raises:
        ManifestError: the report beside the manifest is not one that `prepare` writes.
    """
    file = (manifest if manifest.is_dir() else manifest.parent) / REPORT
    if not file.is_file():
        return DEFAULT_LIMITS
    fix = "remove it, or prepare again"
    limits = read_object(file, ManifestError, fix).get("limits", {})
    kinds = {"min_seconds": is_number, "max_seconds": is_number, "keep_silent": _is_bool}
    if not isinstance(limits, dict) or not all(k in kinds and kinds[k](limits[k]) for k in limits):
        raise ManifestError(
            f"{file}: found limits {limits!r:.80}, expected {', '.join(kinds)}; {fix}"
        )
    try:
        return ClipLimits(**limits)
    except ManifestError as error:
        raise ManifestError(f"{file}: {error}; {fix}") from error


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _digits_that_differ(seconds: float, limit: float) -> str:
    """Seconds with two decimals, or with five where two would show the limit itself."""
    return f"{seconds:.5f}" if float(f"{seconds:.2f}") == limit else f"{seconds:.2f}"
