"""What the cache saves. In: a recipe and a cache. Out: seconds of an epoch, cached and not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from rellm_cache.batches import Batch, collate
from rellm_cache.config import Recipe
from rellm_cache.corpus.manifest import read_split
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.stages.data import make_examples, open_frames
from rellm_cache.stages.generate import LiveEncoders
from rellm_cache.stages.trainer import Data, Trainer, make_accelerator


@dataclass(frozen=True)
class EpochTimes:
    """One epoch of the same model over the same batches, timed in one process.

    Attributes:
        cached: seconds with frames from the cache.
        live: seconds with both encoders in the loop, as without a cache.
        steps: optimiser steps timed.
    """

    cached: float
    live: float
    steps: int

    @property
    def ratio(self) -> float:
        """How many times faster the cached epoch is."""
        return self.live / self.cached


def time_epochs(
    recipe: Recipe,
    manifest: Path,
    cache: Path,
    out: Path,
    llm: FrozenLLM | None = None,
    max_steps: int | None = None,
) -> EpochTimes:
    """Time an epoch, or its first `max_steps` steps, both ways.

    Args:
        out: a scratch folder for the trainer's files.
        llm: the recipe's LLM, if it has one.
    """
    utterances = read_split(manifest, "train")
    frames = open_frames(recipe, cache)
    examples = make_examples(utterances, recipe, llm)
    data = Data(examples, [], frames)
    trainer = Trainer(recipe, data, out, llm, make_accelerator(recipe, out))
    groups = trainer.groups(0)[:max_steps]
    live = LiveEncoders(recipe, trainer.device)

    def cached_batch(indices: Sequence[int]) -> Batch:
        return collate([examples[i] for i in indices], frames)

    def live_batch(indices: Sequence[int]) -> Batch:
        made = live.frames([utterances[i] for i in indices])
        return collate([examples[i] for i in indices], made)

    _time(trainer, groups[:1], cached_batch)  # the first step of a process is slower
    cached = _time(trainer, groups, cached_batch)
    return EpochTimes(cached, _time(trainer, groups, live_batch), len(groups))


def _time(
    trainer: Trainer,
    groups: Sequence[Sequence[Sequence[int]]],
    load: Callable[[Sequence[int]], Batch],
) -> float:
    trainer.model.train()
    start = monotonic()
    for number, group in enumerate(groups):
        trainer.step([load(indices) for indices in group], number)
    return monotonic() - start
