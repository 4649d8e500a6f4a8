"""A corpus and its folds. In: its folder. Out: who is in which split of which fold.

IEMOCAP, ESD and MSP-Podcast have the paper's one split. IEMOCAP can be cross-validated by session;
RAVDESS, which the paper does not have, always is, by groups of four speakers.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from rellm_cache.corpus.manifest import SPLITS, Utterance
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.esd import read_esd
from rellm_cache.corpus.readers.iemocap import SESSIONS, IemocapSplits, read_iemocap
from rellm_cache.corpus.readers.msp_podcast import read_msp_podcast
from rellm_cache.corpus.readers.ravdess import SpeakerSplits, read_ravdess
from rellm_cache.corpus.splits import text_key
from rellm_cache.errors import ConfigError, ManifestError

CorpusName = Literal["iemocap", "esd", "msp-podcast", "ravdess"]
CORPORA: tuple[CorpusName, ...] = ("iemocap", "esd", "msp-podcast", "ravdess")
# The first of each is the default.
SPLITTINGS: dict[CorpusName, tuple[str, ...]] = {
    "iemocap": ("paper", "speaker", "text"),
    "esd": ("paper", "speaker"),
    "msp-podcast": ("paper", "full"),
    "ravdess": ("speaker",),
}
FOLD_SPEAKERS, VALIDATION_SPEAKERS = 4, 2  # of RAVDESS: as many women as men


@dataclass(frozen=True)
class Source:
    """Where a corpus is and how it is split.

    Attributes:
        corpus: its name.
        data: its folder.
        splits: a name of `SPLITTINGS`; empty for the corpus's first.
        cross_validate: test every session of IEMOCAP in turn, not the last alone.
        seed: of whatever is drawn.
    """

    corpus: CorpusName
    data: Path
    splits: str = ""
    cross_validate: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        known = SPLITTINGS[self.corpus]
        object.__setattr__(self, "splits", self.splits or known[0])
        if self.splits not in known:
            raise ConfigError(f"--splits {self.splits}: {self.corpus} has {', '.join(known)}")
        if self.cross_validate and self.corpus != "iemocap":
            raise ConfigError(
                "--cross-validate is by IEMOCAP's sessions; RAVDESS always is, by speakers, and "
                f"{self.corpus} has one split"
            )


@dataclass(frozen=True)
class Fold:
    """One division of a corpus.

    Attributes:
        name: as `fold-1`.
        corpus: with every utterance in its split of this fold.
    """

    name: str
    corpus: Corpus

    @property
    def split_of(self) -> dict[str, str]:
        """Utterance id → split."""
        return {u.id: u.split for u in self.corpus.utterances}


def read_folds(source: Source) -> list[Fold]:
    """Every fold of a corpus; audio is not looked at.

    Raises:
        ManifestError: the folder is not the corpus's.
    """
    data, seed, splits = source.data, source.seed, cast("Any", source.splits)
    if source.corpus == "iemocap":
        sessions = SESSIONS if source.cross_validate else [SESSIONS[-1]]
        corpora = [read_iemocap(data, IemocapSplits(splits, n, seed)) for n in sessions]
    elif source.corpus == "esd":
        corpora = [read_esd(data, splits, seed)]
    elif source.corpus == "msp-podcast":
        corpora = [read_msp_podcast(data, splits, seed)]
    else:
        corpora = [read_ravdess(data, groups) for groups in speaker_groups(_speakers(data))]
    return [Fold(f"fold-{i}", corpus) for i, corpus in enumerate(corpora, 1)]


def _speakers(data: Path) -> list[int]:
    """Numbers of RAVDESS's speakers that have a folder."""
    found = sorted(int(p.name[6:]) for p in data.glob("Actor_*") if p.name[6:].isdigit())
    if len(found) < 3 * FOLD_SPEAKERS:
        raise ManifestError(
            f"{data}: found {len(found)} folders Actor_NN, expected RAVDESS's speech with at least "
            f"{3 * FOLD_SPEAKERS} speakers"
        )
    return found


def speaker_groups(speakers: Sequence[int]) -> list[SpeakerSplits]:
    """Each group of four speakers tested in turn, the two that follow it for validation."""
    splits = []
    for start in range(0, len(speakers), FOLD_SPEAKERS):
        tested = speakers[start : start + FOLD_SPEAKERS]
        after = start + len(tested)
        following = [speakers[(after + i) % len(speakers)] for i in range(VALIDATION_SPEAKERS)]
        training = set(speakers) - set(tested) - set(following)
        splits.append(
            {
                "train": frozenset(training),
                "validation": frozenset(following),
                "test": frozenset(tested),
            }
        )
    return splits


def cut(utterances: Sequence[Utterance], fold: Fold) -> dict[str, list[Utterance]]:
    """The utterances of each split of a fold; those that the fold leaves out are in none.

    Raises:
        ManifestError: nothing is left to train on, or to test.
    """
    split_of = fold.split_of
    found: dict[str, list[Utterance]] = {split: [] for split in SPLITS}
    for utterance in utterances:
        if (split := split_of.get(utterance.id)) is not None:
            found[split].append(replace(utterance, split=split))
    for split in ("train", "test"):
        if not found[split]:
            raise ManifestError(
                f"{fold.corpus.name}, {fold.name}: none of its {len(split_of)} clips is left in "
                f"{split}; excluded.jsonl beside the manifests says what was left out, and why"
            )
    return found


def shuffle_labels(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Emotion, dimensions and expected response dealt out anew among clips of the same text.

    So each response still fits the words, and no longer the voice. Texts that are said once, or in
    one emotion only, are shuffled together.
    """
    groups: dict[str, list[int]] = {}
    for index, utterance in enumerate(utterances):
        groups.setdefault(text_key(utterance.text), []).append(index)
    mixed: list[list[int]] = []
    alone: list[int] = []
    for members in groups.values():
        if len({utterances[i].emotion for i in members}) > 1:
            mixed.append(members)
        else:
            alone += members
    shuffled = list(utterances)
    dealer = random.Random(seed)
    for members in [*mixed, alone]:
        dealt = dealer.sample(members, len(members))
        for index, other in zip(members, dealt, strict=True):
            given = utterances[other]
            shuffled[index] = replace(
                utterances[index],
                emotion=given.emotion,
                vad=given.vad,
                vad_source=given.vad_source,
                response=given.response,
                early_stop=given.early_stop,
            )
    return shuffled
