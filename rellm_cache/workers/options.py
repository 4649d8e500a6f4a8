"""Worker options of a command: number of processes, Ray cluster, shard of a job array."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from rellm_cache.errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """The share of one job in a job array, counted from 1.

    An item's shard depends on its id alone, so it does not change when a manifest grows.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`"2/8"` is the second of eight; `ConfigError` for anything else."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(
                f"shard {text!r}: expected i/n with 1 <= i <= n, as 1/8 for the first of eight"
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of(cls, name: str, count: int) -> "Shard":
        """The shard of an id among `count`: SHA-256 of the id, modulo the number of shards."""
        value = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        return cls(value % count + 1, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class WorkerOptions:
    """How the work of a command is divided. No option changes what is made."""

    # Processes. 0 means this process only; with `ray`, one actor for each GPU, or for each machine
    # if there is no GPU.
    workers: int = 0
    # Address of a Ray cluster that runs the workers; "" for processes of this machine.
    ray: str = ""
    shard: Shard | None = None  # the part of the items to do; None for all of them

    @classmethod
    def parse(cls, workers: int | None, ray: str, shard: str | None) -> Self:
        """Options as a command has them; `ConfigError` for a malformed shard."""
        return cls(workers or 0, ray, None if shard is None else Shard.parse(shard))

    @property
    def has_workers(self) -> bool:
        """Whether other processes do the work."""
        return bool(self.workers or self.ray)

    def takes(self, name: str) -> bool:
        """Whether the item of an id is in this shard."""
        return self.shard is None or self.shard == Shard.of(name, self.shard.count)
