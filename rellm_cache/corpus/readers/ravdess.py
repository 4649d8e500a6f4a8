"""RAVDESS reader: speech clips `Actor_NN/03-01-….flac` or `.wav`, split by speaker.

A file name holds seven numbers: modality, channel, emotion, intensity, statement, repetition, actor
(Livingstone and Russo 2018). There are no dimensions.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rellm_cache.corpus.labels import KNOWN_NAMES, LabelRule, label_rule
from rellm_cache.corpus.manifest import SPLITS, Utterance
from rellm_cache.corpus.readers.base import Corpus, count_totals
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.errors import ManifestError
from rellm_cache.utils.console import counted, parse_ranges

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
NOT_IN_PAPER = ("calm", "fear", "disgust")
CLIPS = dict.fromkeys(EMOTIONS.values(), 8) | {"neutral": 4}  # of each speaker by emotion
_NAME = re.compile(r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")

SpeakerSplits = dict[str, frozenset[int]]


@dataclass(frozen=True)
class RavdessOptions:
    """Emotions, and speakers of each split."""

    emotions: Literal["paper", "all"] = "paper"
    """paper: neutral, happy, sad, angry and surprise; all: also calm, fear and disgust. Any
    --labels reads all, too."""

    train_speakers: str = "1-16"
    """As 1-16 or 1,3,5-8."""
    validation_speakers: str = "17,18"
    """As --train-speakers."""
    test_speakers: str = "19-20"
    """As --train-speakers."""

    labels: str = ""
    """keep: all eight emotions under the corpus's names (neutral, calm, happy, sad, angry, fear,
    disgust, surprise); a JSON file maps these names."""

    @property
    def splits(self) -> SpeakerSplits:
        """Numbers of the speakers by split; `ConfigError` if a text is no list of numbers."""
        return speaker_splits(self)


@register_corpus("ravdess", options=RavdessOptions)
def read_ravdess_speakers(root: Path, options: RavdessOptions) -> Corpus:
    """Read RAVDESS: speech in five or eight emotions.

    ROOT has the folders Actor_01 …
    """
    rule = label_rule(options.labels)
    every = options.emotions == "all" or rule != KNOWN_NAMES
    return read_ravdess(root, options.splits, () if every else NOT_IN_PAPER, rule)


def read_ravdess(
    root: Path,
    splits: SpeakerSplits,
    left_out: Collection[str] = NOT_IN_PAPER,
    rule: LabelRule = KNOWN_NAMES,
) -> Corpus:
    """Read the speech clips of the speakers in `splits`, by file name.

    Args:
        left_out: emotions whose clips are not read.
        rule: how the emotions are named.

    Raises:
        ManifestError: a speaker is in two splits, a split has no clip, or a map lacks an emotion.
    """
    refuse_shared_speakers(splits)
    split_of = {speaker: split for split, speakers in splits.items() for speaker in speakers}
    paths = sorted(p for p in root.glob("Actor_*/*") if p.suffix.lower() in (".flac", ".wav"))
    utterances, others = [], 0
    for path in paths:
        name = _NAME.fullmatch(path.stem)
        if name is None or EMOTIONS[name[1]] in left_out:
            continue
        if (split := split_of.get(int(name[5]))) is None:
            others += 1
            continue
        utterances.append(
            Utterance(
                id=f"ravdess/{path.stem}",
                audio=str(path.resolve()),
                text=STATEMENTS[name[3]],
                emotion=rule.emotion(EMOTIONS[name[1]], str(path)),
                speaker=f"ravdess/{name[5]}",
                split=split,
            )
        )
    for split, speakers in splits.items():
        if speakers and not any(u.split == split for u in utterances):
            raise ManifestError(
                f"{root}: found no clip of the {split} speakers {sorted(speakers)}, expected files "
                "like Actor_01/03-01-05-01-01-01-01.flac"
            )
    names = sorted(f"{speaker:02d}" for speaker in split_of)
    return Corpus(
        name="ravdess",
        utterances=utterances,
        splits="speaker",
        root=root,
        totals=count_totals(
            utterances,
            lambda u: u.speaker.removeprefix("ravdess/"),
            dict.fromkeys(names, sum(n for name, n in CLIPS.items() if name not in left_out)),
            "speaker ",
        ),
        notes=[f"{counted(others, 'clip')} of speakers in no split left out"] if others else [],
        own_labels=rule != KNOWN_NAMES,
    )


def speaker_splits(options: object) -> SpeakerSplits:
    """Numbers by split, from the texts `train_speakers`, … of a corpus's options.

    Raises `ConfigError` if a text is no list of numbers.
    """
    return {
        split: frozenset(parse_ranges(getattr(options, f"{split}_speakers"), "speakers"))
        for split in SPLITS
    }


def refuse_shared_speakers(splits: SpeakerSplits) -> None:
    """Raise `ManifestError` if a speaker is in two splits."""
    seen: dict[int, str] = {}
    for split, speakers in splits.items():
        for speaker in speakers:
            if speaker in seen:
                raise ManifestError(
                    f"speaker {speaker} is in both {seen[speaker]} and {split}; list it in one: a "
                    "recognizer must be tested on voices it has not heard"
                )
            seen[speaker] = split
