"""Provenance of a run, in `training.json`: data, steps, time, machine, frozen LLM, cache.

The record is published with an adapter, but corpora are not. So it has only counts and the names of
known corpora, and no ids, texts, files or speakers.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.config.specs import digest
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.statistics import read_report
from rellm_cache.errors import RunError
from rellm_cache.store.remote.mirror import cache_folder
from rellm_cache.store.remote.mirror_paths import is_url, origin_url
from rellm_cache.utils.atomic_files import write_text
from rellm_cache.utils.checksums import require_intact
from rellm_cache.utils.console import say
from rellm_cache.utils.json_files import build_record, load
from rellm_cache.utils.regular_files import folder_exists

TRAINING = "training.json"
OWN_DIGEST = "sha256"  # of the other fields of `training.json`
DEFAULT_CACHE = Path("cache")  # same as the default of `--cache`
OTHER_CORPUS = "another corpus"
# Ids of other corpora may start with any text, even the name of a speaker.
CORPORA = ("iemocap", "esd", "msp-podcast", "ravdess", "demo")


@dataclass(frozen=True)
class DataSummary:
    """Counts of utterances.

    Attributes:
        hours: of clips with a known duration.
        corpora: known corpus → clips; all others together are `another corpus`.
        splits: name of the split → clips.
        emotions: emotion → clips.
        dimensions: source of arousal, dominance and valence (human, pseudo, made) → clips.
        prepared: splits made by `rellm prepare`, such as `paper, seed 1`; empty if unknown.
    """

    clips: int
    hours: float
    speakers: int
    corpora: dict[str, int]
    splits: dict[str, int]
    emotions: dict[str, int]
    dimensions: dict[str, int]
    prepared: str = ""


@dataclass(frozen=True)
class TrainingRecord:
    """How a finished run was trained.

    Attributes:
        rellm: version of rellm that trained the run.
        steps: steps taken.
        seconds: training time over all calls.
        processes: number of processes that shared each step at the end of training.
        llm_weights: SHA-256 of the frozen LLM's files; empty without an LLM.
        started_from: SHA-256 of the trained weights that training started from, or empty.
        scores: scores of the best weights on the validation split.
        cache: absolute path or URL of the cache used in training; empty in a published run.
        stopped: why training was stopped before the last step of the recipe, or empty.
        layer_weights: stream → number of a layer → its learned weight; empty without such weights.
    """

    rellm: str
    train: DataSummary
    validation: DataSummary | None
    steps: int
    seconds: float
    processes: int
    machine: dict[str, str]
    llm_weights: str
    started_from: str
    scores: dict[str, float]
    cache: str = ""
    stopped: str = ""
    layer_weights: dict[str, dict[str, float]] = field(default_factory=dict)


def summarize_data(utterances: Sequence[Utterance], manifest: Path) -> DataSummary:
    """Count the utterances of a manifest file or folder.

    Raises:
        ManifestError: the report of `rellm prepare` in the same folder cannot be read.
    """
    return DataSummary(
        clips=len(utterances),
        hours=round(sum(u.duration or 0.0 for u in utterances) / 3600, 4),
        speakers=len({u.speaker for u in utterances if u.speaker}),
        corpora=_counts(_corpus(u.id) for u in utterances),
        splits=_counts(u.split or "unnamed" for u in utterances),
        emotions=_counts(u.emotion for u in utterances if u.emotion),
        dimensions=_counts(u.vad_source or "human" for u in utterances if u.vad),
        prepared=_prepared(manifest if manifest.is_dir() else manifest.parent),
    )


def _corpus(utterance_id: str) -> str:
    name = utterance_id.partition("/")[0]
    return name if name in CORPORA else OTHER_CORPUS


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _prepared(folder: Path) -> str:
    """How a manifest folder was split, according to its report of `rellm prepare`."""
    report = read_report(folder) or {}
    splits, seed = report.get("splits"), report.get("seed")
    if not splits:
        return ""
    return f"{splits}, seed {seed}" if seed is not None else str(splits)


def learned_dimensions(recipe: Recipe, record: TrainingRecord) -> bool:
    """Whether a run learned dimensions from labels of its own train split."""
    learns = recipe.heads.dimensions and recipe.losses.vad > 0
    return learns and bool(record.train.dimensions)


def has_trained_dimensions(run: Path, recipe: Recipe) -> bool:
    """Whether the dimension head of a run is not random.

    It is taken as trained if training started from another run's, or if nothing is recorded.
    """
    if not recipe.heads.dimensions or not (run / TRAINING).is_file():
        return recipe.heads.dimensions
    record = load_training(run)
    started = bool(record.started_from) and "dimensions" in recipe.training.init_parts
    return started or learned_dimensions(recipe, record)


def save_training(run: Path, record: TrainingRecord) -> None:
    """Write `training.json`."""
    write_text(run / TRAINING, training_text(record))


def training_text(record: TrainingRecord) -> str:
    """Content of `training.json`, with a digest of itself.

    A run that is killed before its list of checksums is written has no other one.
    """
    content = dataclasses.asdict(record)
    for name in ("cache", "stopped", "layer_weights"):
        if not content[name]:
            del content[name]
    return json.dumps({**content, OWN_DIGEST: digest(content)}, indent=2) + "\n"


def load_training(run: Path) -> TrainingRecord:
    """Read `training.json`; `RunError` if it is missing or damaged."""
    require_intact(run / TRAINING, "restore it")
    try:
        content = load(run / TRAINING)
        # An older version wrote none.
        own = content.pop(OWN_DIGEST, None) if isinstance(content, dict) else None
        if own is not None and own != digest(content):
            raise ValueError(f"{OWN_DIGEST}: found the digest of other values")
        return build_record(TrainingRecord, content)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{run / TRAINING}: cannot be read ({type(error).__name__}: {error}); `rellm train` "
            "writes it at the end: run the command that trained this run again, which trains "
            "nothing twice"
        ) from error


def has_record(run: Path) -> bool:
    """Whether a run has its `training.json`; a damaged one, which is told, counts as missing."""
    if not (run / TRAINING).exists():
        return False
    try:
        load_training(run)
    except RunError:  # told here; the caller writes it again
        say(f"Note: {run / TRAINING}: was changed or damaged, and is written again")
        return False
    return True


def cache_location(cache: Path) -> str:
    """Absolute path or URL of a cache root, as `training.json` records it."""
    return origin_url(cache) or str(cache.absolute())


def run_cache(run: Path) -> Path:
    """Find the cache that a run was trained from; `cache` if not recorded, as in published runs.

    Raises:
        RunError: the cache no longer exists.
        RellmError: the cache is a URL that cannot be used.
    """
    location = load_training(run).cache if (run / TRAINING).is_file() else ""
    if not location:
        return DEFAULT_CACHE
    if not is_url(location) and not folder_exists(location):
        raise RunError(
            f"{run}: was trained from the cache {location}, which does not exist any more; say "
            "where it is now with --cache"
        )
    return cache_folder(location)
