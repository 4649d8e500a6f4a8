"""Speed perturbation: copies of training clips that are played faster or slower.

A copy is resampled, so that pitch and formants move with the speed, as if another voice spoke
(Ko et al. 2015, "Audio augmentation for speech recognition"). Its frames are stored like those of
any clip, under an id of its own.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from rellm_cache.config.schema import Recipe
from rellm_cache.corpus.clip_limits import ClipLimits, read_limits
from rellm_cache.corpus.manifest import Utterance, read_split
from rellm_cache.errors import ManifestError

ROUNDING = 1e-3  # seconds: durations in manifests are rounded


def copy_id(utterance_id: str, speed: float) -> str:
    """Id of a clip's copy, as `ravdess/03-01-05-01-01-01-07@0.9`."""
    return f"{utterance_id}@{speed:g}"


def is_copy_of(utterance_id: str, ids: Collection[str]) -> bool:
    """Whether an id is that of a copy of one of these clips."""
    original, mark, speed = utterance_id.rpartition("@")
    return bool(mark) and original in ids and speed.replace(".", "", 1).isdecimal()


def without_copies(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances that are not copies of others among them."""
    ids = {u.id for u in utterances}
    return [u for u in utterances if not is_copy_of(u.id, ids)]


def speed_copies(
    utterances: Sequence[Utterance],
    speeds: Sequence[float],
    limits: ClipLimits,
    splits: Collection[str] | None = None,
) -> list[tuple[int, Utterance]]:
    """Copies of utterances at each speed, each with the place of its original.

    A copy that would be shorter or longer than the limits allow is left out.

    Args:
        speeds: 0.9 is a tenth slower. The order of the copies is that of the speeds.
        splits: of the utterances that are copied; None for all.

    Raises:
        ManifestError: an utterance has the id of a copy.
    """
    known = {u.id for u in utterances}
    copies = []
    for speed in speeds:
        for place, utterance in enumerate(utterances):
            if splits is not None and utterance.split not in splits:
                continue
            copy = _copy(utterance, speed)
            if copy.id in known:
                raise ManifestError(
                    f"utterance {copy.id!r} has the id of the copy of {utterance.id!r} at speed "
                    f"{speed:g} (speed_copies of the recipe); rename it"
                )
            if copy.duration is None or _is_usable(copy.duration, limits):
                copies.append((place, copy))
    return copies


def with_speed_copies(
    utterances: Sequence[Utterance], speeds: Sequence[float], limits: ClipLimits
) -> list[Utterance]:
    """The utterances, and after them the copies of those in the train split at each speed.

    Errors and arguments are those of `speed_copies`.
    """
    copies = speed_copies(utterances, speeds, limits, {"train"})
    return [*utterances, *(copy for _, copy in copies)]


def clips_to_encode(
    utterances: Sequence[Utterance], recipe: Recipe, limits: ClipLimits
) -> list[Utterance]:
    """The utterances, and after them all copies that a recipe trains on or recognizes by.

    Errors are those of `speed_copies`.
    """
    trained = with_speed_copies(utterances, recipe.training.speed_copies, limits)
    heard = [copy for _, copy in speed_copies(utterances, recipe.heads.speed_copies, limits)]
    return list({u.id: u for u in (*trained, *heard)}.values())


def read_training_clips(manifest: Path, speeds: Sequence[float]) -> list[Utterance]:
    """The train split of a manifest folder, with its copies at each speed.

    Raises:
        ManifestError: the split or the limits beside it cannot be read, or as `with_speed_copies`.
    """
    return with_speed_copies(read_split(manifest, "train"), speeds, read_limits(manifest))


def _is_usable(seconds: float, limits: ClipLimits) -> bool:
    return limits.min_seconds + ROUNDING <= seconds <= limits.max_seconds - ROUNDING


def _copy(utterance: Utterance, speed: float) -> Utterance:
    return replace(
        utterance,
        id=copy_id(utterance.id, speed),
        speed=utterance.speed * speed,
        duration=None if utterance.duration is None else utterance.duration / speed,
    )
