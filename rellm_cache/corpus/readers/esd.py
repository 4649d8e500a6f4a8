"""ESD reader: the English half of the Emotional Speech Database, speakers 0011 to 0020.

00NN/{Neutral,Angry,Happy,Sad,Surprise}[/train|/evaluation|/test]/00NN_XXXXXX.wav
00NN/00NN.txt    id, text and emotion, separated by tabs, in UTF-8, UTF-16, GB2312 or Latin-1

Ids 1 to 350 are neutral, then 350 each angry, happy, sad and surprise. Every speaker reads the same
350 sentences in every emotion: sentence = (id - 1) mod 350. A clip whose transcript line is missing
or malformed gets the most common text of its sentence; the report counts them. Surprise is left
out, as in the paper, unless `labels` is given. There are no dimensions; `rellm annotate` predicts
them.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rellm_cache.corpus.labels import KNOWN_NAMES, LabelRule, label_rule
from rellm_cache.corpus.manifest import Utterance
from rellm_cache.corpus.readers.base import Corpus, Total, count_totals, with_audio
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.splits import draw, hold_out, in_split
from rellm_cache.corpus.text_files import Problems, read_text_lines
from rellm_cache.errors import ManifestError
from rellm_cache.utils.console import counted

SPEAKERS = tuple(f"{n:04d}" for n in range(11, 21))
EMOTIONS = ("Neutral", "Angry", "Happy", "Sad", "Surprise")  # in the order of ids
LEFT_OUT = "Surprise"
SENTENCES = 350
CLIPS = len(EMOTIONS) * SENTENCES  # of each speaker
TEST_SENTENCES = 105
# One woman and one man each; 0011 to 0014 and 0020 are men.
VALIDATION_SPEAKERS = ("0014", "0018")
TEST_SPEAKERS = ("0019", "0020")

Splits = Literal["paper", "speaker"]

_WAV = re.compile(r"(?P<speaker>\d{4})_(?P<number>\d{6})")
_LINE = re.compile(r"(?P<id>\d{4}_\d{6}) ?(?P<rest>.+)")
_ENDING = re.compile(rf"(?P<text>.*\W)?(?P<emotion>{'|'.join(EMOTIONS)})")


@dataclass
class _Speaker:
    """Contents of one speaker's folder: wav files and transcripts by id."""

    wavs: dict[str, Path] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EsdSplits:
    """How to split ESD."""

    splits: Splits = "paper"
    """paper: 105 random sentences of 350 for test and a tenth of the others for validation, all
    speakers in all splits; speaker: two speakers each for validation and test, all sentences in all
    splits."""
    seed: int = 1
    """Seed of random draws; the report records it."""
    labels: str = ""
    """keep: all five emotions, in lower case; a JSON file maps the corpus's names (Neutral, Angry,
    Happy, Sad, Surprise). The default leaves out surprise."""


@register_corpus("esd", options=EsdSplits)
def read_esd(root: Path, how: EsdSplits | None = None) -> Corpus:
    """Read ESD, its English half: 14,000 clips.

    With --labels it is 17,500. ROOT has the folders 0011 … 0020. Clips are sorted by id.

    Raises:
        ManifestError: there is no speaker, a file is in the folder of another emotion or speaker,
            or a map lacks an emotion.
    """
    how = how or EsdSplits()
    splits, seed, rule = how.splits, how.seed, label_rule(how.labels)
    root = root.resolve()
    present = [name for name in SPEAKERS if (root / name).is_dir()]
    if not present:
        raise ManifestError(
            f"{root}: found no folder 0011 … 0020; expected those of ESD's English speakers"
        )
    problems = Problems()
    speakers = {name: _read_speaker(root / name, problems) for name in present}
    parallel = _parallel_texts(speakers.values())
    found = []
    for name, speaker in speakers.items():
        for clip in sorted(speaker.wavs.keys() | speaker.texts.keys()):
            text = speaker.texts.get(clip)
            if text is None and (text := parallel.get(_sentence(clip))) is not None:
                problems.add(
                    "texts taken from other clips of the same sentence", f"{clip}: {text!r}"
                )
            elif text is None:
                problems.add("clips without a transcript of their sentence", clip)
            wav = speaker.wavs.get(clip)
            found.append(_utterance(root / name, clip, wav, text or "", rule))
    kept, notes = found, []
    if rule == KNOWN_NAMES:
        kept = [u for u in found if u.emotion != LEFT_OUT.lower()]
        left_out = counted(len(found) - len(kept), "clip")
        notes = [f"{left_out} of surprise left out, as in the paper"]
    return Corpus(
        name="esd",
        utterances=_split(kept, splits, seed),
        splits=splits,
        seed=seed if splits == "paper" else None,
        totals=_totals(with_audio(found), four=rule == KNOWN_NAMES),
        problems=problems,
        notes=notes,
        root=root,
        own_labels=rule != KNOWN_NAMES,
    )


def _read_speaker(folder: Path, problems: Problems) -> _Speaker:
    speaker = _Speaker()
    for emotion in EMOTIONS:
        for wav in sorted((folder / emotion).rglob("[0-9]*.wav")):
            name = _WAV.fullmatch(wav.stem)
            if name is None or name["speaker"] != folder.name:
                raise ManifestError(f"{wav}: expected a name like {folder.name}_000001.wav")
            if not 1 <= int(name["number"]) <= CLIPS:
                raise ManifestError(
                    f"{wav}: number {name['number']}, expected 000001 to {CLIPS:06d}"
                )
            if (expected := _emotion(wav.stem)) != emotion:
                raise ManifestError(
                    f"{wav}: by its number it is {expected}, by its folder {emotion}"
                )
            if (other := speaker.wavs.get(wav.stem)) is not None:
                raise ManifestError(f"{wav}: the same clip as {other}; remove one of them")
            speaker.wavs[wav.stem] = wav
    for where, line in read_text_lines(folder / f"{folder.name}.txt", problems):
        _read_line(where, line, folder.name, speaker, problems)
    return speaker


def _read_line(where: str, line: str, name: str, speaker: _Speaker, problems: Problems) -> None:
    clip, text, emotion = _fields(line)
    if not text or clip[:4] != name or not 1 <= _number(clip) <= CLIPS:
        problems.add("malformed transcript lines", f"{where}: {line[:60]!r}")
        return
    if emotion != _emotion(clip):
        found = emotion or "none"
        problems.add(
            "transcript lines with another emotion than their number",
            f"{where}: {found}, by its number {_emotion(clip)}",
        )
    if speaker.texts.get(clip, text) != text:
        problems.add("clips transcribed twice, the last text used", f"{where}: {line[:60]!r}")
    speaker.texts[clip] = text


def _fields(line: str) -> tuple[str, str, str]:
    """Id, text and emotion of a line, "" for a missing part; some lines have no tabs."""
    fields = [" ".join(f.split()) for f in line.split("\t") if f.strip()]
    if len(fields) == 3 and _WAV.fullmatch(fields[0]):
        return fields[0], fields[1], fields[2]
    match = _LINE.fullmatch(" ".join(line.split()))
    if match is None:
        return "", "", ""
    ending = _ENDING.fullmatch(match["rest"])
    if ending is None:
        return match["id"], match["rest"], ""
    return match["id"], (ending["text"] or "").strip(), ending["emotion"]


def _number(clip: str) -> int:
    return int(clip[5:])


def _sentence(clip: str) -> int:
    return (_number(clip) - 1) % SENTENCES


def _emotion(clip: str) -> str:
    return EMOTIONS[(_number(clip) - 1) // SENTENCES]


def _parallel_texts(speakers: Iterable[_Speaker]) -> dict[int, str]:
    """Sentence → its most common transcript; of equally common ones the first by alphabet."""
    texts: dict[int, Counter[str]] = {}
    for speaker in speakers:
        for clip, text in speaker.texts.items():
            texts.setdefault(_sentence(clip), Counter())[text] += 1
    return {s: min(found, key=lambda t: (-found[t], t)) for s, found in texts.items()}


def _utterance(folder: Path, clip: str, wav: Path | None, text: str, rule: LabelRule) -> Utterance:
    emotion = _emotion(clip)
    wav = wav or folder / emotion / f"{clip}.wav"  # its expected path; prepare lists it as missing
    return Utterance(
        id=f"esd/{clip}",
        audio=str(wav),
        text=text,
        emotion=rule.emotion(emotion, f"{folder}: {clip}"),
        speaker=f"esd/{folder.name}",
    )


def _split(utterances: list[Utterance], splits: Splits, seed: int) -> list[Utterance]:
    def sentence(utterance: Utterance) -> str:
        return str(_sentence(utterance.id.removeprefix("esd/")))

    if splits == "paper":
        tested = draw(map(str, range(SENTENCES)), TEST_SENTENCES, seed)
        placed = [in_split(u, "test" if sentence(u) in tested else "train") for u in utterances]
        return hold_out(placed, seed, sentence)
    names = dict.fromkeys((f"esd/{s}" for s in VALIDATION_SPEAKERS), "validation")
    names |= dict.fromkeys((f"esd/{s}" for s in TEST_SPEAKERS), "test")
    return [in_split(u, names.get(u.speaker, "train")) for u in utterances]


def _totals(found: list[Utterance], four: bool) -> list[Total]:
    """Totals by the corpus's own emotions, with that of the paper's four if only they are kept."""
    per_emotion = len(SPEAKERS) * SENTENCES
    labels = {u.id: _emotion(u.id.removeprefix("esd/")).lower() for u in found}
    kept = sum(label != LEFT_OUT.lower() for label in labels.values())
    paper = [Total("four emotions", kept, (len(EMOTIONS) - 1) * per_emotion)]
    return [
        Total("all five emotions", len(found), len(EMOTIONS) * per_emotion),
        *(paper if four else ()),
        *count_totals(found, lambda u: labels[u.id], {e.lower(): per_emotion for e in EMOTIONS}),
        *count_totals(
            found,
            lambda u: u.speaker.removeprefix("esd/"),
            dict.fromkeys(SPEAKERS, CLIPS),
            "speaker ",
        ),
    ]
