"""Options of an extraction: how its work is divided, and how often encoded clips are committed."""

from dataclasses import dataclass

from rellm_cache.store.writer import PART_SECONDS
from rellm_cache.workers.options import WorkerOptions


@dataclass(frozen=True)
class ExtractionOptions(WorkerOptions):
    """Worker options of an extraction. No option changes a frame."""

    # An open part is committed at this age, so a kill loses at most that much.
    commit_seconds: float = PART_SECONDS
