"""MSP-Podcast reader: labels, audio paths and transcripts of the corpus's own folder.

Labels/labels_consensus.csv    FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
Audios/<FileName>              MSP-PODCAST_0001_0008.wav
Transcripts/<stem>.txt         optional; clips without one have no text

Labels/labels_detailed.csv     with --soft: one line a rater, `FileName,EmoDetail` with text such as
                               "WORKER00000001; Angry; Frustrated; A:5.0; V:2.0; D:5.0;", or the
                               columns FileName, EmoClass_Major

EmoClass is a letter: N neutral, H happy, A angry, S sad, U surprise, F fear, D disgust, C contempt,
O other, X without agreement. Dimensions are arousal (EmoAct), valence, dominance on a scale of 1 to
7. The labels of Test3 are hidden, so its rows are not read.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rellm_cache.corpus.dimensions import rescale
from rellm_cache.corpus.emotions import OTHER, normalize_emotion
from rellm_cache.corpus.labels import KNOWN_NAMES, LabelRule, label_rule
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.readers.base import Corpus, Total, with_audio
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.soft_labels import majority, shares_of_votes
from rellm_cache.corpus.splits import draw, hold_out
from rellm_cache.corpus.text_files import Problems, read_csv, read_text
from rellm_cache.errors import ManifestError
from rellm_cache.utils.console import counted

COLUMNS = ("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Split_Set")
EMOTIONS = ("neutral", "happy", "angry", "sad")
NAMES = {letter: normalize_emotion(letter) for letter in "NHASUFDCO"}
NO_AGREEMENT = "X"
SCALE = (1.0, 7.0)
SPLIT_SETS = {
    "Train": "train",
    "Development": "validation",
    "Validation": "validation",  # its name in old releases
    "Test1": "test",
    "Test2": "test",
}
HIDDEN = "Test3"
TABLES = ("labels_consensus.csv", "labels_concensus.csv")  # the second name is in old releases
DETAILED = "labels_detailed.csv"
NO_SPEAKER = "Unknown"
# Clips of the four classes that the paper drew from, and how many it drew from them.
FULL_TOTALS = {"train": 57_211, "test": 31_139}
PAPER_TOTALS = {"train": 4_290, "test": 1_245}

Splits = Literal["paper", "full"]


@dataclass(frozen=True)
class MspPodcastSplits:
    """How to split MSP-Podcast."""

    splits: Splits = "paper"
    """paper: 4,290 random clips of Train, a tenth of them for validation, and 1,245 of Test1 and
    Test2; full: all of Train, Development, and Test1 and Test2."""
    seed: int = 1
    """Seed of random draws; the report records it."""
    soft: bool = False
    """Soft labels: the shares of each clip's raters (labels_detailed.csv) as its emotion. With
    --splits full also clips of other emotions, and those without agreement."""
    labels: str = ""
    """keep: clips of all emotions, under the corpus's names (neutral, happy, angry, sad, surprise,
    fear, disgust, contempt, other); a JSON file maps these names. The default is the first four.
    Clips without agreement are left out, unless --soft gives them shares."""


@register_corpus("msp-podcast", options=MspPodcastSplits)
def read_msp_podcast(root: Path, how: MspPodcastSplits | None = None) -> Corpus:
    """Read MSP-Podcast: four classes, or soft labels of all clips.

    With --labels all emotions. ROOT has the folders Labels, Audios and Transcripts. Clips are
    sorted by file name.

    Raises:
        ManifestError: the table of labels is missing or lacks a column, a row cannot be used, or a
            map lacks an emotion.
    """
    how = how or MspPodcastSplits()
    splits, seed, rule = how.splits, how.seed, label_rule(how.labels)
    root = root.resolve()
    labels = root / "Labels"
    table = next((labels / name for name in TABLES if (labels / name).exists()), labels / TABLES[0])
    if not table.exists():
        raise ManifestError(
            f"{table}: no such file; expected MSP-Podcast's folder with Labels, Audios, Transcripts"
        )
    problems = Problems()
    raters = _read_raters(labels, rule, problems) if how.soft else {}
    every = (how.soft and splits == "full") or rule != KNOWN_NAMES
    utterances = []
    left_out: Counter[str] = Counter()
    for where, row in read_csv(table, COLUMNS):
        if row["Split_Set"] == HIDDEN:
            left_out["of Test3, whose labels are hidden,"] += 1
        elif (utterance := _utterance(where, row, root, rule, every)) is None:
            left_out["of other emotions"] += 1
        elif utterance.emotion is None and not how.soft:
            left_out["without agreement"] += 1
        elif how.soft and row["FileName"] not in raters:
            left_out["without raters"] += 1
        else:
            if how.soft:
                shares = shares_of_votes(raters[row["FileName"]])
                utterance = replace(utterance, emotion=majority(shares), soft_emotion=shares)
            utterances.append(utterance)
    utterances.sort(key=lambda u: u.id)
    chosen = hold_out(_drawn(utterances, seed), seed) if splits == "paper" else utterances
    return Corpus(
        name="msp-podcast",
        utterances=[_with_text(u, root, problems) for u in chosen],
        splits=splits,
        seed=seed if splits == "paper" else None,
        totals=() if every else _totals(utterances, chosen, splits),
        problems=problems,
        notes=[f"{counted(count, 'clip')} {what} left out" for what, count in left_out.items()],
        root=root,
        own_labels=rule != KNOWN_NAMES,
    )


def _read_raters(labels: Path, rule: LabelRule, problems: Problems) -> dict[str, list[str]]:
    """File name → the primary emotion of each rater; "Other-…" and unknown ones are other."""
    table = labels / DETAILED
    votes: dict[str, list[str]] = {}
    for where, row in read_csv(table, ["FileName"]):
        if (label := row.get("EmoClass_Major")) is None:
            parts = [part.strip() for part in row.get("EmoDetail", "").split(";")]
            if len(parts) < 2:
                raise ManifestError(
                    f"{where}: found {row}, expected the column EmoClass_Major, or EmoDetail with "
                    '"WORKER…; Angry; …"'
                )
            label = parts[1]
        name = OTHER if label.lower().startswith(OTHER) else label
        try:
            name = normalize_emotion(name)
        except ManifestError:
            problems.add("emotions of raters read as other", f"{where}: {label!r}")
            name = OTHER
        votes.setdefault(row["FileName"], []).append(rule.emotion(name, where))
    return votes


def _utterance(
    where: str, row: dict[str, str], root: Path, rule: LabelRule, every: bool
) -> Utterance | None:
    """The clip of a row; None for an emotion that is not one of the four, unless `every`."""
    if (split := SPLIT_SETS.get(row["Split_Set"])) is None:
        raise ManifestError(
            f"{where}: Split_Set {row['Split_Set']!r}, expected one of "
            f"{', '.join((*SPLIT_SETS, HIDDEN))}"
        )
    if not row["FileName"]:
        raise ManifestError(f"{where}: column 'FileName' is empty, expected a sound file's name")
    emotion = _emotion(row["EmoClass"], rule, f"{where}: EmoClass")
    if emotion not in EMOTIONS and not every:
        return None
    speaker = row["SpkrID"] or NO_SPEAKER
    return Utterance(
        id=f"msp-podcast/{row['FileName'].removesuffix('.wav')}",
        audio=f"{root}/Audios/{row['FileName']}",
        emotion=emotion,
        vad=rescale([row[c] for c in ("EmoAct", "EmoDom", "EmoVal")], SCALE, where),
        vad_source="human",
        speaker="" if speaker == NO_SPEAKER else f"msp-podcast/{speaker}",
        split=split,
    )


def _emotion(label: str, rule: LabelRule, where: str) -> str | None:
    """The emotion of an EmoClass; None without agreement, where all emotions are read by name."""
    if label == NO_AGREEMENT and rule != KNOWN_NAMES:
        return None
    return rule.emotion(NAMES.get(label, label), where)


def _drawn(utterances: list[Utterance], seed: int) -> list[Utterance]:
    drawn: set[str] = set()
    for split, count in PAPER_TOTALS.items():
        drawn |= draw((u.id for u in utterances if u.split == split), count, seed)
    return [u for u in utterances if u.id in drawn]


def _with_text(utterance: Utterance, root: Path, problems: Problems) -> Utterance:
    path = root / f"Transcripts/{Path(utterance.audio).stem}.txt"
    if not path.exists():
        problems.add("clips without a transcript", f"{path}: no such file")
        return utterance
    return replace(utterance, text=" ".join(read_text(path, problems).split()))


def _totals(found: list[Utterance], chosen: list[Utterance], splits: Splits) -> list[Total]:
    """Totals of all labels, and of the audio of the chosen clips, which alone is needed."""
    labelled = Counter(u.split for u in found)
    there = Counter(u.split for u in with_audio(chosen))
    expected = FULL_TOTALS
    if splits == "paper":
        there["train"] += there["validation"]  # validation was drawn from train
        expected = PAPER_TOTALS
    return [
        *(Total(f"labels of {s}", labelled[s], count) for s, count in FULL_TOTALS.items()),
        *(Total(f"audio of {s}", there[s], count) for s, count in expected.items()),
    ]
