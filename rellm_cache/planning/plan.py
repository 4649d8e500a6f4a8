"""plan. In: a manifest, a recipe and a cache. Out: what its stages would take, nothing written.

Extraction is tried on a few clips (`extraction_plan`), training is counted from the recipe
(`training_plan`). Size is exact where the manifest gives durations.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.audio import audio_seconds
from rellm_cache.corpus.manifest import Utterance, manifest_files, read_manifests
from rellm_cache.data.examples import Questions, questions_of
from rellm_cache.errors import AudioError, ConfigError, ManifestError
from rellm_cache.extraction.missing import find_missing
from rellm_cache.extraction.run import make_targets
from rellm_cache.planning.extraction import ExtractionPlan, plan_extraction
from rellm_cache.planning.training import TrainingPlan, plan_training
from rellm_cache.qa.rows import questions_path
from rellm_cache.store.remote.mirror_paths import mirrors_max_bytes, origin_url
from rellm_cache.utils.console import progress
from rellm_cache.utils.devices import default_device


@dataclass(frozen=True)
class Plan:
    """What extraction and training would take.

    Attributes:
        clips: of the manifest.
        hours: of audio.
        unreadable: clips whose file or header cannot be read.
        extraction: on this machine, in one process.
        needed_bytes: of disk; of a cache at a URL, what its copy keeps here.
        free_bytes: of the disk that the cache is on.
        training: on this machine, or on the GPU asked about; None if it cannot be counted.
        training_unknown: why not.
    """

    clips: int
    hours: float
    unreadable: int
    extraction: ExtractionPlan
    needed_bytes: int
    free_bytes: int
    training: TrainingPlan | None
    training_unknown: str

    @property
    def fits(self) -> bool:
        """Whether the disk has room."""
        return self.needed_bytes <= self.free_bytes

    def to_json(self) -> dict[str, Any]:
        """As `plan --json` prints it."""
        found = {**dataclasses.asdict(self), "fits": self.fits}
        found |= found.pop("extraction")
        if self.training is not None:
            found["training"]["peak_bytes"] = self.training.peak_bytes
        return found


def plan(
    manifest: Path,
    recipe: Recipe,
    cache: Path,
    clips: int = 4,
    batch_size: int = 16,
    gpu_bytes: int | None = None,
) -> Plan:
    """Estimate what `extract` would take, here, in one process, and what `train` would.

    Args:
        clips: how many are decoded and encoded to estimate time and memory.
        gpu_bytes: memory of the GPU that is to train; None trains here.

    Raises:
        ManifestError, ConfigError: the manifest or a model cannot be used.
        StoreError: a store of the cache is damaged.
    """
    utterances = read_manifests(manifest)
    targets = make_targets(recipe, cache)
    missing = find_missing(utterances, list(dict.fromkeys(targets.values())))
    seconds = _durations(utterances)
    extraction = plan_extraction(targets, missing, seconds, len(utterances), clips, batch_size)
    on_gpu = default_device().type == "cuda" or gpu_bytes is not None
    learned = [u for u in utterances if u.split == "train"]  # `read_manifests` gives each its split
    training, unknown = None, ""
    try:
        if not learned:
            raise ManifestError(f"{manifest}: no clip is of the train split")
        training = plan_training(
            recipe,
            learned,
            seconds,
            sum(stream.frame_size for stream in extraction.streams),
            torch.bfloat16 if on_gpu else torch.float32,
            gpu_bytes,
            _questions(recipe, manifest),
        )
    except (ConfigError, ManifestError) as error:
        unknown = str(error)
    size = extraction.size
    return Plan(
        clips=len(utterances),
        hours=sum(seconds.values()) / 3600,
        unreadable=len(utterances) - len(seconds),
        extraction=extraction,
        needed_bytes=min(size, mirrors_max_bytes()) if origin_url(cache) else size,
        free_bytes=shutil.disk_usage(_nearest_folder(cache)).free,
        training=training,
        training_unknown=unknown,
    )


def _questions(recipe: Recipe, manifest: Path) -> Questions:
    """What training would learn from of the questions beside a manifest, as far as some are."""
    written = [file for file in manifest_files(manifest) if questions_path(file).exists()]
    return {k: rows for file in written for k, rows in questions_of(recipe, file, ()).items()}


def _durations(utterances: Sequence[Utterance]) -> dict[str, float]:
    """Seconds by id: the manifest's, or the file's header's; unreadable files are left out."""
    found = {}
    with progress("Reading lengths", len(utterances), "clips") as tick:
        for utterance in utterances:
            tick()
            try:
                found[utterance.id] = utterance.duration or audio_seconds(utterance)
            except AudioError:
                continue
    return found


def _nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
