"""CREMA-D reader: 7,442 clips of 91 actors, with the votes of raters (Cao et al. 2014).

AudioWAV/1001_IEO_ANG_HI.wav           actor, sentence, intended emotion, intensity
processedResults/tabulatedVotes.csv    votes A, D, F, H, N and S of a clip by `fileName`

The first digit of a row's number in the table says what its raters had: 1 the voice alone, 2 the
face, 3 both. The votes on the voice are the labels. There are no dimensions.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rellm_cache.corpus.emotions import normalize_emotion
from rellm_cache.corpus.labels import KNOWN_NAMES, LabelRule, label_rule
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.readers.base import Corpus, Total, with_audio
from rellm_cache.corpus.readers.ravdess import (
    SpeakerSplits,
    refuse_shared_speakers,
    speaker_splits,
)
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.soft_labels import majority, shares_of_votes
from rellm_cache.corpus.text_files import read_csv
from rellm_cache.errors import ManifestError
from rellm_cache.utils.console import counted

CLIPS = 7442
VOTES = ("A", "D", "F", "H", "N", "S")
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
TABLE = "processedResults/tabulatedVotes.csv"
_NAME = re.compile(r"(1\d{3})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})")


@dataclass(frozen=True)
class CremaDOptions:
    """Where the labels come from, speakers of each split, and names of emotions."""

    label_source: Literal["votes", "intended"] = "votes"
    """votes: the shares of raters who heard the voice; intended: what the actor was to express."""
    train_speakers: str = "1001-1073"
    """As 1001-1073 or 1001,1003."""
    validation_speakers: str = "1074-1082"
    """As --train-speakers."""
    test_speakers: str = "1083-1091"
    """As --train-speakers."""
    labels: str = ""
    """keep: the corpus's own names, as without it (angry, disgust, fear, happy, neutral, sad); a
    JSON file maps these names."""

    @property
    def splits(self) -> SpeakerSplits:
        """Numbers of the speakers by split; `ConfigError` if a text is no list of numbers."""
        return speaker_splits(self)


@register_corpus("crema-d", options=CremaDOptions)
def read_crema_d(root: Path, options: CremaDOptions | None = None) -> Corpus:
    """Read CREMA-D: six emotions with votes of raters.

    ROOT has the folders AudioWAV and processedResults.

    Raises:
        ManifestError: there is no sound file or no table, a file has another name, a clip has no
            votes on its voice, a speaker is in two splits, or a map lacks an emotion.
    """
    options = options or CremaDOptions()
    splits, rule = options.splits, label_rule(options.labels)
    refuse_shared_speakers(splits)
    split_of = {str(n): split for split, numbers in splits.items() for n in numbers}
    files = sorted((root / "AudioWAV").glob("*.wav"))
    if not files:
        raise ManifestError(f"{root}: found no AudioWAV/*.wav; expected the folder of CREMA-D")
    votes = _read_votes(root / TABLE, rule) if options.label_source == "votes" else {}
    utterances, others = [], 0
    for file in files:
        if (name := _NAME.fullmatch(file.stem)) is None or name[2] not in SENTENCES:
            raise ManifestError(f"{file}: expected a name like 1001_IEO_ANG_HI.wav")
        shares = votes.get(file.stem)
        if options.label_source == "votes" and shares is None:
            raise ManifestError(f"{root / TABLE}: found no votes on the voice of {file.stem}")
        if (split := split_of.get(name[1])) is None:
            others += 1
            continue
        utterances.append(
            Utterance(
                id=f"crema-d/{file.stem}",
                audio=str(file.resolve()),
                text=SENTENCES[name[2]],
                emotion=majority(shares) if shares else _emotion(name[3], rule, str(file)),
                soft_emotion=shares,
                speaker=f"crema-d/{name[1]}",
                split=split,
            )
        )
    return Corpus(
        name="crema-d",
        utterances=utterances,
        splits="speaker",
        totals=[Total("clips", len(with_audio(utterances)) + others, CLIPS)],
        notes=[f"{counted(others, 'clip')} of speakers in no split left out"] if others else [],
        root=root,
        own_labels=rule != KNOWN_NAMES,
    )


def _emotion(code: str, rule: LabelRule, where: str) -> str:
    """The emotion of a letter or of a code in a file name, as A and ANG."""
    return rule.emotion(normalize_emotion(code, where), where)


def _read_votes(table: Path, rule: LabelRule) -> dict[str, dict[str, float]]:
    """File name → shares of the raters who heard the voice alone."""
    found: dict[str, dict[str, float]] = {}
    for where, row in read_csv(table, (*VOTES, "fileName")):
        if not row[next(iter(row))].startswith("1"):
            continue
        numbers = {letter: row[letter] for letter in VOTES}
        if not all(number.isdecimal() for number in numbers.values()):
            raise ManifestError(f"{where}: found votes {numbers}, expected whole numbers")
        cast = [
            _emotion(letter, rule, where)
            for letter, number in numbers.items()
            for _ in range(int(number))
        ]
        if cast:
            found[row["fileName"]] = shares_of_votes(cast)
    return found
