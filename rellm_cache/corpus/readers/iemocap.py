"""IEMOCAP reader: labels, dimensions and transcripts of Session1 to Session5.

SessionN/dialog/EmoEvaluation/<dialog>.txt    [6.2901 - 8.2357] <id> neu [2.5, 2.5, 2.5]
SessionN/dialog/transcriptions/<dialog>.txt   <id> [006.2901-008.2357]: Excuse me.
SessionN/sentences/wav/<dialog>/<id>.wav

The three numbers are valence, arousal, dominance on a scale of 1 to 5. Subfolders of EmoEvaluation
and lines of single annotators (`C-…`, `A-…`) are not read. In `Ses01F…_F000` the first letter after
the session is the actor with motion capture markers; the last F or M is the speaker.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rellm_cache.config.constraints import Range
from rellm_cache.corpus.dimensions import Vad, rescale
from rellm_cache.corpus.labels import KNOWN_NAMES, LabelRule, label_rule
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.readers.base import Corpus, Total, count_totals, with_audio
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.splits import hold_out, in_split, text_key, without_text_of
from rellm_cache.corpus.text_files import Problems, read_text_lines
from rellm_cache.errors import ManifestError
from rellm_cache.utils.console import counted

SESSIONS = range(1, 6)
EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}
NO_AGREEMENT = "xxx"
SCALE = (1.0, 5.0)
OFF_SCALE = "dimensions outside the scale, not used"
MAX_OFF_SCALE = 0.01  # share of clips; more means another scale, not an annotator's mistake

Splits = Literal["paper", "speaker", "text"]
LABEL_TOTALS = {
    "neu": 1708, "hap": 595, "exc": 1041, "ang": 1103, "sad": 1084, "fru": 1849, "sur": 107,
    "fea": 40, "oth": 3, "dis": 2,
}  # fmt: skip
SESSION_TOTALS = {"1": 1085, "2": 1023, "3": 1151, "4": 1031, "5": 1241}  # of the four classes

_LABEL = re.compile(r"\[[\d. ]+-[\d. ]+\]\s+(?P<id>\S+)\s+(?P<label>\S+)\s+\[(?P<dimensions>.*)\]")
_SKIPPED = re.compile(r"[CA]-[A-Z]+\d*:|%")  # line of one annotator, or header
_TURN = re.compile(r"(?P<id>\S+)\s+\[[\d. ]+-[\d. ]+\]:?\s*(?P<text>.*)")
_NOT_A_TURN = re.compile(r"[A-Z]+:|\S+XX\d")  # comments, and turns without a label
_SPEAKER = re.compile(r"Ses0(?P<session>\d)[FM].*(?P<gender>[FM])")


@dataclass(frozen=True)
class IemocapSplits:
    """How to split IEMOCAP."""

    splits: Splits = "paper"
    """paper: one session for test, a random tenth of the others for validation; speaker: the
    session before the test session for validation, so that no two splits share a speaker; text: as
    paper, without clips of train and validation that share their text with the test, and without
    shared texts in train and validation."""
    test_session: Annotated[int, Range(1, 5)] = 5
    """Session for test; a cross-validation uses all five in turn."""
    seed: int = 1
    """Seed of random draws; the report records it."""
    labels: str = ""
    """keep: all clips with a label, under the corpus's own names (neu, hap, exc, ang, sad, fru,
    sur, fea, oth, dis); a JSON file maps these names. The default is four classes, excited as
    happy. Clips without agreement (xxx) are always left out."""


@register_corpus("iemocap", options=IemocapSplits)
def read_iemocap(root: Path, splits: IemocapSplits | None = None) -> Corpus:
    """Read IEMOCAP: 5,531 clips of four classes.

    Excited counts as happy. With --labels it is 7,532 clips. ROOT has the folders Session1 …
    Session5. Clips are sorted by id.

    Raises:
        ManifestError: there is no session, a line of labels cannot be read, a map lacks a label, or
            many clips have dimensions outside the scale.
    """
    root, splits = root.resolve(), splits or IemocapSplits()
    sessions = [n for n in SESSIONS if (root / f"Session{n}").is_dir()]
    if not sessions:
        raise ManifestError(
            f"{root}: found no folder Session1 … Session5; expected IEMOCAP's own folder, "
            "often named IEMOCAP_full_release"
        )
    if splits.test_session not in sessions:
        raise ManifestError(
            f"{root}: test session {splits.test_session} is missing; found sessions "
            f"{', '.join(map(str, sessions))}"
        )
    rule, problems = label_rule(splits.labels), Problems()
    every = [u for n in sessions for u in _read_session(root / f"Session{n}", rule, problems)]
    found = [u for u in every if u.emotion is not None]
    found.sort(key=lambda u: u.id)
    off_scale = len(problems.lines.get(OFF_SCALE, ()))
    if off_scale > MAX_OFF_SCALE * len(every):
        raise ManifestError(
            f"{problems.lines[OFF_SCALE][0]}, as in {off_scale} of {len(every)} clips; "
            "expected valence, arousal, dominance from 1 to 5"
        )
    utterances, notes = _split(found, splits, sessions)
    if unlabelled := len(every) - len(found):
        notes.append(f"{counted(unlabelled, 'clip')} without agreement (xxx) left out")
    return Corpus(
        name="iemocap",
        utterances=utterances,
        splits=f"{splits.splits}, session {splits.test_session} tested",
        seed=None if splits.splits == "speaker" else splits.seed,
        totals=_totals(with_audio(found), rule, str(root)),
        problems=problems,
        notes=notes,
        root=root,
        own_labels=rule != KNOWN_NAMES,
    )


def _read_session(folder: Path, rule: LabelRule, problems: Problems) -> list[Utterance]:
    labels, transcripts = folder / "dialog/EmoEvaluation", folder / "dialog/transcriptions"
    texts: dict[str, str] = {}
    for file in sorted(transcripts.glob("Ses*.txt")):
        texts.update(_read_transcript(file, problems))
    files = sorted(labels.glob("Ses*.txt"))
    if not files:
        raise ManifestError(f"{labels}: found no Ses….txt; expected one file of labels per dialog")
    utterances = []
    for file in files:
        for where, line in read_text_lines(file, problems):
            if (read := _read_label(where, line, rule, problems)) is None:
                continue
            clip, emotion, vad = read
            if clip not in texts:
                problems.add("labeled turns without a transcript", f"{where}: {clip}")
            utterances.append(
                Utterance(
                    id=f"iemocap/{clip}",
                    audio=f"{folder}/sentences/wav/{file.stem}/{clip}.wav",
                    text=texts.get(clip, ""),
                    emotion=emotion,
                    vad=vad,
                    vad_source="human" if vad else None,
                    speaker=f"iemocap/{_speaker(clip, where)}",
                )
            )
    return utterances


def _read_label(
    where: str, line: str, rule: LabelRule, problems: Problems
) -> tuple[str, str | None, Vad | None] | None:
    """Id, emotion and dimensions of a line; None for a line without a clip to read."""
    if not line.startswith("["):
        if not _SKIPPED.match(line):
            problems.add("unknown lines in label files", f"{where}: {line[:60]!r}")
        return None
    match = _LABEL.match(line)
    if match is None:
        raise ManifestError(
            f"{where}: found {line[:60]!r}, expected [start - end], id, label and [valence, "
            "arousal, dominance], separated by tabs"
        )
    label = match["label"]
    if label not in LABEL_TOTALS and label != NO_AGREEMENT:
        raise ManifestError(
            f"{where}: label {label!r}, expected one of {', '.join((*LABEL_TOTALS, NO_AGREEMENT))}"
        )
    emotion = _emotion(label, rule, where)
    if emotion is None and rule == KNOWN_NAMES:
        return None
    return match["id"], emotion, _dimensions(where, match["dimensions"], problems)


def _emotion(label: str, rule: LabelRule, where: str) -> str | None:
    """The emotion of a label; None without agreement, and for labels outside the four classes."""
    if rule == KNOWN_NAMES:
        return EMOTIONS.get(label)
    return None if label == NO_AGREEMENT else rule.emotion(label, where)


def _dimensions(where: str, text: str, problems: Problems) -> Vad | None:
    """(arousal, dominance, valence) in 0..1; None, with a problem, if one is off the scale."""
    try:
        valence, arousal, dominance = (float(number) for number in text.split(","))
    except ValueError as error:
        raise ManifestError(
            f"{where}: dimensions [{text}], expected three numbers: valence, arousal, dominance"
        ) from error
    try:
        return rescale((arousal, dominance, valence), SCALE, where)
    except ManifestError as error:
        problems.add(OFF_SCALE, str(error))
        return None


def _read_transcript(file: Path, problems: Problems) -> dict[str, str]:
    texts: dict[str, str] = {}
    for where, line in read_text_lines(file, problems):
        if match := _TURN.match(line):
            clip, text = match["id"], match["text"].strip()
            if texts.get(clip, text) != text:
                problems.add("turns transcribed twice, the last text used", f"{where}: {clip}")
            texts[clip] = text
        elif not _NOT_A_TURN.match(line):
            problems.add("unknown lines in transcripts", f"{where}: {line[:60]!r}")
    return texts


def _speaker(clip: str, where: str) -> str:
    match = _SPEAKER.match(clip)
    if match is None:
        raise ManifestError(f"{where}: id {clip!r}, expected one like Ses01F_impro01_F000")
    return match["session"] + match["gender"]


def _session(utterance: Utterance) -> str:
    return utterance.speaker.removeprefix("iemocap/")[0]


def _split(
    found: list[Utterance], splits: IemocapSplits, sessions: Sequence[int]
) -> tuple[list[Utterance], list[str]]:
    names = {splits.test_session: "test"}
    if splits.splits == "speaker":
        # Among the sessions that exist; the one before the first is the last.
        before = sessions[sessions.index(splits.test_session) - 1]
        names = {before: "validation", **names}
    placed = [in_split(u, names.get(int(_session(u)), "train")) for u in found]
    if splits.splits == "speaker":
        return placed, []
    if splits.splits == "paper":
        return hold_out(placed, splits.seed), []
    apart, dropped = without_text_of(placed, "test")
    left = counted(dropped, "clip of another session is", "clips of other sessions are")
    notes = [f"{left} in no split, as the test has the same text"]
    return hold_out(apart, splits.seed, lambda u: text_key(u.text) or u.id), notes


def _totals(found: list[Utterance], rule: LabelRule, where: str) -> list[Total]:
    """Totals of all clips and of each emotion under any rule; of sessions for the four classes."""
    expected: Counter[str] = Counter()
    for label, count in LABEL_TOTALS.items():
        if (emotion := _emotion(label, rule, where)) is not None:
            expected[emotion] += count
    sessions = SESSION_TOTALS if rule == KNOWN_NAMES else {}
    return [
        Total("all", len(found), expected.total()),
        *count_totals(found, lambda u: u.emotion or "", expected),
        *count_totals(found, _session, sessions, "session "),
    ]
