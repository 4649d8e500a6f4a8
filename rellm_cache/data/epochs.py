"""Epoch loader: an iterable over the batches of one split, for a training loop of one's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.manifest import Utterance, read_split
from rellm_cache.corpus.speed_copies import read_training_clips
from rellm_cache.data.batch import Batch
from rellm_cache.data.examples import make_examples
from rellm_cache.data.loader import BatchLoader
from rellm_cache.data.sampler import bucketed_batches
from rellm_cache.data.speaker_normalization import normalize_speakers
from rellm_cache.data.streams import StreamSet, open_streams
from rellm_cache.errors import ConfigError
from rellm_cache.store.remote.mirror_paths import display_path


class Loader:
    """Batches of labelled clips; each `for` loop is one epoch, in the order of the next epoch.

    `len(loader)` is the number of batches. Batches have their own memory and stay valid. The order
    depends on the clips' lengths, the seed and the epoch only; `train` draws the same batches.

    Attributes:
        emotions: names of the classes; `batch.emotions` has indices into it, -100 where unknown.
        sizes: values in a frame of each stream, by name.
        layers: numbers of the layers in each stream's frames; empty for one layer.
        epoch: number of the next epoch, from 0; set it to continue an interrupted loop.

    Example:
        >>> import rellm_cache as rellm
        >>> loader = rellm.loader("heads", "manifests/demo", "cache", split="train", seed=1)
        >>> batch = next(iter(loader))
        >>> batch.streams["speech"].shape[:2] == (len(batch.ids), int(batch.frame_lengths.max()))
        True
    """

    def __init__(
        self,
        recipe: Recipe,
        utterances: Sequence[Utterance],
        streams: StreamSet,
        seed: int,
        device: torch.device,
        shuffle: bool = True,
    ) -> None:
        self.emotions, self.sizes = recipe.heads.emotions, streams.sizes
        self.layers = streams.layers
        self.epoch = 0
        self._batches = BatchLoader(make_examples(utterances, recipe, None), streams, device)
        self._training, self._seed, self._shuffle = recipe.training, seed, shuffle
        self._device = device

    def __len__(self) -> int:
        return len(self._plan(self.epoch))

    def __iter__(self) -> Iterator[Batch]:
        plan = self._plan(self.epoch)
        self.epoch += 1
        return (batch.to(self._device) for batch in self._batches.batches(plan))

    def _plan(self, epoch: int) -> list[list[int]]:
        """Indices of the clips of each batch."""
        size, lengths = self._training.batch_size, self._batches.lengths
        if not self._shuffle:
            clips = range(len(lengths))
            return [list(clips[i : i + size]) for i in clips[::size]]
        return bucketed_batches(lengths, size, self._seed, epoch, self._training.bucket_window)


def open_loader(
    recipe: Recipe,
    manifest: Path,
    cache: Path,
    split: str,
    *,
    seed: int | None,
    device: str | torch.device,
    shuffle: bool,
) -> Loader:
    """Open the loader of one split of a manifest folder.

    Raises:
        ConfigError: there is no such device.
        StoreError: the cache lacks a store or clips.
        ManifestError: the recipe normalizes by speaker, and a clip has no speaker.
    """
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise ConfigError(f"device {str(device)!r}: {error}; expected 'cpu' or 'cuda'") from error
    utterances = read_split(manifest, split)
    if split == "train":
        utterances = read_training_clips(manifest, recipe.training.speed_copies)
    streams = open_streams(recipe.encoders, cache)
    command = f"rellm extract {manifest} --recipe … --cache {display_path(cache)}"
    streams.require([u.id for u in utterances], command)
    streams = normalize_speakers(streams, recipe.encoders, utterances)
    chosen = recipe.seed if seed is None else seed
    return Loader(recipe, utterances, streams, chosen, torch.device(device), shuffle)
