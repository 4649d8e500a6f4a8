"""Plan of a recipe for a manifest: time, memory and disk of extraction and training.

Nothing is written. Disk size is exact if the manifest has durations.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rellm_cache.config.qa import QASettings
from rellm_cache.config.schema import EncoderConfig, LossesConfig, Recipe
from rellm_cache.corpus.audio import clip_seconds
from rellm_cache.corpus.clip_limits import ClipLimits, read_limits
from rellm_cache.corpus.manifest import Utterance, manifest_files, read_manifests
from rellm_cache.corpus.speed_copies import clips_to_encode
from rellm_cache.data.examples import Questions, load_questions
from rellm_cache.errors import AudioError, ConfigError, ManifestError
from rellm_cache.extraction.missing import TargetStore, find_missing
from rellm_cache.extraction.run import make_targets
from rellm_cache.planning.extraction import ExtractionPlan, UsableClips, plan_extraction
from rellm_cache.planning.savings import Fit, cheapest_fit
from rellm_cache.planning.training import TrainingPlan, plan_training
from rellm_cache.qa.rows import questions_path
from rellm_cache.store.remote.mirror_paths import mirrors_max_bytes, origin_url
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device


@dataclass(frozen=True)
class Plan:
    """Estimates for extraction and training."""

    clips: int  # in the manifest
    hours: float  # of audio
    unusable: int  # clips that cannot be read or that the limits leave out
    extraction: ExtractionPlan  # on this machine, in one process
    needed_bytes: int  # on this disk; for a cache at a URL, the size of its mirror
    free_bytes: int  # on the disk of the cache
    training: TrainingPlan | None  # on this machine or the given GPU; None if unknown
    training_unknown: str  # the reason if `training` is None
    savings: Fit | None = None  # options with which training fits into the GPU, if it does not

    @property
    def fits(self) -> bool:
        """Whether the disk has enough space."""
        return self.needed_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """The object that `rellm plan --json` prints."""
        fields = {**dataclasses.asdict(self), "fits": self.fits}
        fields |= fields.pop("extraction")
        if self.training is not None:
            fields["training"]["peak_bytes"] = self.training.peak_bytes
        if self.savings is not None:
            fields["savings"]["training"]["peak_bytes"] = self.savings.training.peak_bytes
        return fields


def plan(
    manifest: Path,
    recipe: Recipe,
    cache: Path,
    clips: int = 4,
    batch_size: int = 16,
    gpu_bytes: int | None = None,
) -> Plan:
    """Estimate time, memory and disk of `extract` in one process and of `train`.

    Args:
        clips: number of clips to encode for the estimates.
        gpu_bytes: memory of the GPU for training; None for the device of this machine.

    Raises:
        ManifestError, ConfigError: the manifest or a model cannot be used.
        StoreError: a store of the cache is damaged.
    """
    limits = read_limits(manifest)
    utterances = clips_to_encode(read_manifests(manifest), recipe, limits)
    targets = make_targets(recipe.require_encoders(), cache)
    missing = find_missing(utterances, list(dict.fromkeys(targets.values())))
    seconds = _durations(utterances, limits)
    usable = UsableClips(seconds, limits, len(utterances))
    extraction = plan_extraction(recipe.encoders, targets, missing, usable, clips, batch_size)
    on_gpu = default_device().type == "cuda" or gpu_bytes is not None
    train_split = [u for u in utterances if u.split == "train"]
    training, unknown, savings = None, "", None
    try:
        if not train_split:
            raise ManifestError(f"{manifest}: found no clip of the train split")
        count = partial(
            plan_training,
            clips=train_split,
            seconds=seconds,
            sizes={stream.name: stream.frame_size for stream in extraction.streams},
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            gpu_bytes=gpu_bytes,
            questions=_questions(recipe.losses, recipe.qa, manifest),
            frame_rate=next(iter(targets.values())).spec.frame_rate,
        )
        whole = dataclasses.replace(recipe, encoders=_resolved(recipe.encoders, targets))
        training = count(whole)
        if gpu_bytes is not None and not training.fits(gpu_bytes):
            savings = cheapest_fit(whole, count, gpu_bytes)
    except (ConfigError, ManifestError) as error:
        unknown = str(error)
    size = extraction.size
    return Plan(
        clips=len(utterances),
        hours=sum(seconds.values()) / 3600,
        unusable=len(utterances) - len(seconds),
        extraction=extraction,
        needed_bytes=min(size, mirrors_max_bytes()) if origin_url(cache) else size,
        free_bytes=shutil.disk_usage(_nearest_folder(cache)).free,
        training=training,
        training_unknown=unknown,
        savings=savings,
    )


def _resolved(
    encoders: Mapping[str, EncoderConfig], targets: Mapping[str, TargetStore]
) -> dict[str, EncoderConfig]:
    """The encoders with the numbers of their layers in place of "all"."""
    resolved = dict(encoders)
    for name, encoder in encoders.items():
        if encoder.layers and (layers := encoder.layers_within(targets[name].spec)):
            resolved[name] = dataclasses.replace(encoder, layers=layers)
    return resolved


def _questions(losses: LossesConfig, qa: QASettings, manifest: Path) -> Questions:
    """Clip id → questions next to a manifest that training would use, if there are any."""
    written = [file for file in manifest_files(manifest) if questions_path(file).exists()]
    return {k: rows for f in written for k, rows in load_questions(losses, qa, f, ()).items()}


def _durations(utterances: Sequence[Utterance], limits: ClipLimits) -> dict[str, float]:
    """Clip id → seconds, from the manifest or the file's header; skips unusable clips."""
    seconds = {}
    unknown = sum(utterance.duration is None for utterance in utterances)
    with progress("Reading lengths", unknown, "clips") as tick:
        for utterance in utterances:
            if utterance.duration is None:
                tick()
            try:
                seconds[utterance.id] = clip_seconds(utterance, limits)
            except AudioError:
                continue
    return seconds


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or its nearest parent that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
