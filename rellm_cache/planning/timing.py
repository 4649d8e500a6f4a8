"""Epoch timing: training from cached frames compared with running the encoders in each step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.clip_limits import read_limits
from rellm_cache.corpus.speed_copies import read_training_clips
from rellm_cache.data.batch import Batch
from rellm_cache.data.collate import collate
from rellm_cache.data.examples import make_examples
from rellm_cache.data.speaker_normalization import normalize_speakers
from rellm_cache.data.streams import open_streams
from rellm_cache.inference.live_encoding import LiveEncoders
from rellm_cache.llm.frozen import FrozenLLM
from rellm_cache.training.loop import Trainer, TrainingData, make_accelerator
from rellm_cache.utils.devices import use_threads


@dataclass(frozen=True)
class EpochTimes:
    """Seconds of one epoch of the same model on the same batches, in one process."""

    cached: float  # with frames from the cache
    live: float  # with all encoders run in each step, without a cache
    steps: int  # number of optimizer steps

    @property
    def ratio(self) -> float:
        """Speedup from using the cache."""
        return self.live / self.cached


def time_epochs(
    recipe: Recipe,
    manifest: Path,
    cache: Path,
    out: Path,
    llm: FrozenLLM | None = None,
    max_steps: int | None = None,
) -> EpochTimes:
    """Time an epoch, or its first steps, from the cache and with encoders run in each step.

    The trainer's files go to the scratch folder `out`.
    """
    utterances = read_training_clips(manifest, recipe.training.speed_copies)
    opened = open_streams(recipe.encoders, cache)
    streams = normalize_speakers(opened, recipe.encoders, utterances)
    examples = make_examples(utterances, recipe, llm)
    data = TrainingData(examples, [], streams)
    trainer = Trainer(recipe, data, out, llm, make_accelerator(out))
    groups = trainer.groups(0)[:max_steps]
    limits = read_limits(manifest)
    live = LiveEncoders(recipe.encoders, trainer.device)

    def encode() -> Iterator[list[Batch]]:
        for group in groups:
            encoded = live.streams([utterances[i] for g in group for i in g], limits)
            yield [collate([examples[i] for i in indices], encoded) for indices in group]

    with use_threads("models" if recipe.needs_llm else "heads"):
        # The first step of a process is slower.
        _time(trainer, trainer.loader.groups(groups[:1], reuse_memory=True))
        cached = _time(trainer, trainer.loader.groups(groups, reuse_memory=True))
    return EpochTimes(cached, _time(trainer, encode()), len(groups))


def _time(trainer: Trainer, steps: Iterable[list[Batch]]) -> float:
    trainer.model.train()
    with trainer.unpacked_llm():
        start = monotonic()
        for number, batches in enumerate(steps):
            trainer.step(batches, number)
        return monotonic() - start
