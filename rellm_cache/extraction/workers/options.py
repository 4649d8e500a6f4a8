"""Where the work of an extraction is done: in this process, in several, on other machines.

In: an extraction's options. Out: a checked `Spread`, and the clips of one shard.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError
from rellm_cache.store.writer import PART_SECONDS


@dataclass(frozen=True)
class Shard:
    """The share of one job of a job array, counted from 1.

    The share of a clip follows from its id alone, so it stays where it is when a manifest grows.
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

    def holds(self, utterance_id: str) -> bool:
        """Whether this shard has the clip: the SHA-256 of its id, modulo the number of shards."""
        value = int.from_bytes(hashlib.sha256(utterance_id.encode()).digest()[:8], "big")
        return value % self.count == self.number - 1


@dataclass(frozen=True)
class Spread:
    """How an extraction is spread out. Nothing here changes a frame.

    Attributes:
        workers: processes; 0 works in this one, or, with `ray`, takes one for each GPU (each
            machine, where there is none).
        ray: address of a Ray cluster whose actors are the workers; "" for processes here.
        shard: the share of the manifest to do; None for all of it.
        commit_seconds: an open part is committed when it is so old: a kill loses no more work.
    """

    workers: int = 0
    ray: str = ""
    shard: Shard | None = None
    commit_seconds: float = PART_SECONDS

    def share(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """The utterances that are to be done here."""
        return [u for u in utterances if self.shard is None or self.shard.holds(u.id)]
