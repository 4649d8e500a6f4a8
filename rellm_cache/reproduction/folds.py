"""Folds of a corpus: its splits for cross-validation.

IEMOCAP, ESD and MSP-Podcast have one fold, the paper's split. IEMOCAP can be cross-validated by
session. RAVDESS, which is not in the paper, is always cross-validated by groups of four speakers.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from rellm_cache.corpus.manifest import SPLITS, Utterance
from rellm_cache.corpus.readers.base import Corpus
from rellm_cache.corpus.readers.esd import EsdSplits, read_esd
from rellm_cache.corpus.readers.iemocap import SESSIONS, IemocapSplits, read_iemocap
from rellm_cache.corpus.readers.msp_podcast import MspPodcastSplits, read_msp_podcast
from rellm_cache.corpus.readers.ravdess import SpeakerSplits, read_ravdess
from rellm_cache.corpus.splits import text_key
from rellm_cache.errors import ConfigError, ManifestError

CorpusName = Literal["iemocap", "esd", "msp-podcast", "ravdess"]
# Names of splits; the first of each corpus is the default.
SPLITTINGS: dict[CorpusName, tuple[str, ...]] = {
    "iemocap": ("paper", "speaker", "text"),
    "esd": ("paper", "speaker"),
    "msp-podcast": ("paper", "full"),
    "ravdess": ("speaker",),
}
FOLD_SPEAKERS, VALIDATION_SPEAKERS = 4, 2  # of RAVDESS: half of them women


@dataclass(frozen=True)
class Source:
    """A corpus and the way it is split."""

    corpus: CorpusName
    data: Path  # folder of the corpus, as distributed
    splits: str = ""  # a name in `SPLITTINGS`; empty for the default of the corpus
    cross_validate: bool = False  # test each session of IEMOCAP in turn, not just the last
    seed: int = 1  # seed of random splits

    def __post_init__(self) -> None:
        known = SPLITTINGS[self.corpus]
        object.__setattr__(self, "splits", self.splits or known[0])
        if self.splits not in known:
            raise ConfigError(f"--splits {self.splits}: {self.corpus} has {', '.join(known)}")
        if self.cross_validate and self.corpus != "iemocap":
            raise ConfigError(
                f"--cross-validate: expected iemocap, found {self.corpus}; ravdess is always "
                "cross-validated by speaker, esd and msp-podcast have one split"
            )


@dataclass(frozen=True)
class Fold:
    """One fold of a corpus."""

    name: str  # `fold-1` and so on
    corpus: Corpus  # every utterance with its split in this fold

    @property
    def split_of(self) -> dict[str, str]:
        """Utterance id → split."""
        return {u.id: u.split for u in self.corpus.utterances}


def read_folds(source: Source) -> list[Fold]:
    """All folds of a corpus; no audio is read.

    Raises:
        ManifestError: the folder does not hold the corpus.
    """
    data, seed, splits = source.data, source.seed, cast("Any", source.splits)
    if source.corpus == "iemocap":
        sessions = SESSIONS if source.cross_validate else [SESSIONS[-1]]
        corpora = [read_iemocap(data, IemocapSplits(splits, n, seed)) for n in sessions]
    elif source.corpus == "esd":
        corpora = [read_esd(data, EsdSplits(splits, seed))]
    elif source.corpus == "msp-podcast":
        corpora = [read_msp_podcast(data, MspPodcastSplits(splits, seed))]
    else:
        corpora = [read_ravdess(data, groups) for groups in speaker_groups(_speakers(data))]
    return [Fold(f"fold-{i}", corpus) for i, corpus in enumerate(corpora, 1)]


def _speakers(data: Path) -> list[int]:
    """Numbers of the RAVDESS speakers that have a folder."""
    found = sorted(int(p.name[6:]) for p in data.glob("Actor_*") if p.name[6:].isdigit())
    if len(found) < 3 * FOLD_SPEAKERS:
        raise ManifestError(
            f"{data}: found {len(found)} folders Actor_NN, expected RAVDESS's speech with at least "
            f"{3 * FOLD_SPEAKERS} speakers"
        )
    return found


def speaker_groups(speakers: Sequence[int]) -> list[SpeakerSplits]:
    """Splits that test each group of four speakers in turn; the next two speakers validate."""
    splits = []
    for start in range(0, len(speakers), FOLD_SPEAKERS):
        tested = speakers[start : start + FOLD_SPEAKERS]
        after = start + len(tested)
        following = [speakers[(after + i) % len(speakers)] for i in range(VALIDATION_SPEAKERS)]
        test, validation = frozenset(tested), frozenset(following)
        train = frozenset(speakers) - test - validation
        splits.append({"train": train, "validation": validation, "test": test})
    return splits


def split_utterances(utterances: Sequence[Utterance], fold: Fold) -> dict[str, list[Utterance]]:
    """Split → utterances of a fold; utterances without a split are left out.

    Raises:
        ManifestError: the train or the test split is empty.
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
                f"{split}; excluded.jsonl beside the manifests lists the excluded clips and why"
            )
    return found


def shuffle_labels(utterances: Sequence[Utterance], seed: int) -> list[Utterance]:
    """Utterances with labels and responses shuffled among clips of the same text.

    Each response still fits the words, but no longer the voice. Texts that occur once, or in one
    emotion only, are shuffled together.
    """
    groups: dict[str, list[int]] = {}
    for index, utterance in enumerate(utterances):
        groups.setdefault(text_key(utterance.text), []).append(index)
    mixed: list[list[int]] = []
    rest: list[int] = []
    for members in groups.values():
        if len({utterances[i].emotion for i in members}) > 1:
            mixed.append(members)
        else:
            rest += members
    shuffled = list(utterances)
    generator = random.Random(seed)
    for members in [*mixed, rest]:
        shuffled_members = generator.sample(members, len(members))
        for index, other in zip(members, shuffled_members, strict=True):
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
