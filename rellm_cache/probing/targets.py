"""Targets of probes: labels of clips, and folds that separate speakers or only clips."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedKFold

from rellm_cache.corpus.dimensions import DIMENSIONS
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.errors import ConfigError

CLASSES = ("emotion", "speaker", "text")
TARGETS = ("emotion", *DIMENSIONS, "speaker", "text")
FOLDS, INNER_FOLDS = 5, 4
SEED = 12  # of folds of clips
Split = tuple[NDArray[np.int64], NDArray[np.int64]]  # indices to train and to test on


@dataclass(frozen=True)
class Target:
    """What a probe predicts.

    Attributes:
        rows: (n,) places of the clips that have the label.
        values: (n,) int64 classes, or float64 values of a dimension.
        labels: names of the classes; empty for a dimension.
        speakers: (n,) int64, where folds are by speaker; None where they are by clip.
    """

    name: str
    rows: NDArray[np.int64]
    values: NDArray[Any]
    labels: tuple[str, ...]
    speakers: NDArray[np.int64] | None

    @property
    def folds_by(self) -> Literal["speaker", "clip"]:
        """What is never in training and test folds at once."""
        return "clip" if self.speakers is None else "speaker"

    @property
    def chance(self) -> float:
        """Expected UA, or CCC, of guessing."""
        return 1 / len(self.labels) if self.labels else 0.0

    def folds(self) -> list[Split]:
        """Training and test clips of each fold, as places in `values`."""
        return self._split(np.arange(len(self.values)), FOLDS)

    def held_out(self, train: NDArray[np.int64]) -> Split:
        """Training clips of a fold in two parts: to fit, and to choose the regularisation on."""
        return self._split(train, INNER_FOLDS)[0]

    def _split(self, among: NDArray[np.int64], folds: int) -> list[Split]:
        if self.speakers is None:
            clips = StratifiedKFold(folds, shuffle=True, random_state=SEED)
            splits = clips.split(among, self.values[among])
        else:
            groups = self.speakers[among]
            count = min(folds, len(np.unique(groups)))
            splits = GroupKFold(count).split(among, groups=groups)
        return [(among[train], among[test]) for train, test in splits]


def find_targets(
    utterances: Sequence[Utterance], names: Sequence[str]
) -> tuple[list[Target], dict[str, str]]:
    """Targets by name, and why the others cannot be probed.

    Raises:
        ConfigError: a target is unknown.
    """
    if unknown := [name for name in names if name not in TARGETS]:
        raise ConfigError(f"targets: found {unknown[0]!r}, expected some of {', '.join(TARGETS)}")
    targets, skipped = [], {}
    for name in dict.fromkeys(names):
        found = _find(utterances, name)
        if isinstance(found, Target):
            targets.append(found)
        else:
            skipped[name] = found
    return targets, skipped


def _find(utterances: Sequence[Utterance], name: str) -> Target | str:
    """The target of a name, or why there is none."""
    if name in ("speaker", "text"):
        return _by_clip(name, [_label(u, name) for u in utterances])
    found = [(i, _value(u, name)) for i, u in enumerate(utterances) if u.speaker]
    labelled = [(i, value) for i, value in found if value is not None]
    if not labelled:
        without = "pseudo labels do not count" if name in DIMENSIONS else "and of a known speaker"
        return f"no clip is labelled ({without})"
    rows = np.array([i for i, _ in labelled])
    _, speakers = np.unique([utterances[i].speaker for i in rows], return_inverse=True)
    if speakers.max() < 2:
        return f"{speakers.max() + 1} speakers have labels, expected 3 or more for folds by speaker"
    values = [value for _, value in labelled]
    if len(set(values)) < 2:
        return f"all clips have the same value, {values[0]}"
    if name in DIMENSIONS:
        return Target(name, rows, np.array(values, np.float64), (), speakers)
    labels, classes = np.unique(values, return_inverse=True)
    return Target(name, rows, classes, tuple(map(str, labels)), speakers)


def _by_clip(name: str, values: Sequence[str]) -> Target | str:
    """A target whose classes must be in the training clips too."""
    counts = Counter(value for value in values if value)
    frequent = {value for value, count in counts.items() if count >= FOLDS}
    if len(frequent) < 2:
        return f"fewer than two {name}s have {FOLDS} clips or more"
    rows = np.array([i for i, value in enumerate(values) if value in frequent])
    labels, classes = np.unique([values[i] for i in rows], return_inverse=True)
    return Target(name, rows, classes, tuple(map(str, labels)), None)


def _label(utterance: Utterance, name: str) -> str:
    if name == "speaker":
        return utterance.speaker
    return " ".join(utterance.text.casefold().split())


def _value(utterance: Utterance, name: str) -> str | float | None:
    if name == "emotion":
        return utterance.emotion
    if utterance.vad is None or utterance.vad_source == "pseudo":
        return None
    return utterance.vad[DIMENSIONS.index(name)]
