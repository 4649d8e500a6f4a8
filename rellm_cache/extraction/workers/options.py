"""Worker options of an extraction: number of processes, Ray cluster, shard of a job array."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError
from rellm_cache.store.writer import PART_SECONDS


@dataclass(frozen=True)
class Shard:
    """The share of one job in a job array, counted from 1.

    A clip's shard depends on its id alone, so it does not change when a manifest grows.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`"2/8"` is the second of eight; `ConfigError` for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"shard {text!r}: expected i/n with 1 <= i <= n, as 1/8 for the first of eight"
            )
        return cls(int(found[1]), int(found[2]))

    def contains(self, utterance_id: str) -> bool:
        """Whether the clip is in this shard: SHA-256 of its id, modulo the number of shards."""
        value = int.from_bytes(hashlib.sha256(utterance_id.encode()).digest()[:8], "big")
        return value % self.count == self.number - 1


@dataclass(frozen=True)
class WorkerOptions:
    """How the work of an extraction is divided. No option changes a frame."""

    # Processes. 0 means this process only; with `ray`, one actor for each GPU, or for each machine
    # if there is no GPU.
    workers: int = 0
    # Address of a Ray cluster that runs the workers; "" for processes of this machine.
    ray: str = ""
    shard: Shard | None = None  # the part of the manifest to encode; None for all of it
    # An open part is committed at this age, so a kill loses at most that much.
    commit_seconds: float = PART_SECONDS

    def select(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """The utterances of this shard."""
        return [u for u in utterances if self.shard is None or self.shard.contains(u.id)]
