"""Manifest files: reading and writing utterances as JSON Lines, one utterance per line.

A manifest is a folder with one file per split (`train.jsonl`, `validation.jsonl`, `test.jsonl`).
`<split>.responses.jsonl` in the same folder has the expected responses of step 1. Reading a
manifest adds them to the utterances. BLSP's field names are accepted too.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from rellm_cache.corpus.dimensions import DIMENSIONS, Vad, check_vad
from rellm_cache.corpus.field_validation import (
    BOOL,
    NAME,
    SECONDS,
    SEGMENT,
    SPEED,
    TEXT,
    Field,
    as_text,
    check_fields,
    check_text,
    json_object,
    one_of,
    plain_name,
)
from rellm_cache.corpus.labels import emotion_of, read_labels
from rellm_cache.corpus.soft_labels import Shares, majority, read_shares
from rellm_cache.errors import ManifestError
from rellm_cache.utils.atomic_files import write_lines
from rellm_cache.utils.console import say_once
from rellm_cache.utils.json_files import parse_object, parse_plain, read_utf8

VadSource = Literal["human", "pseudo", "made"]
SPLITS = ("train", "validation", "test")

# Valid values of each field, besides null.
_FIELDS: dict[str, Field] = {
    **dict.fromkeys(("text", "response", "output"), TEXT),
    "emotion": (lambda value: isinstance(value, str | dict), "text, or an object of shares"),
    **dict.fromkeys(("id", "parent", "speaker"), NAME),
    "split": one_of(*SPLITS),
    "vad_source": one_of(*get_args(VadSource)),
    "duration": SECONDS,
    "early_stop": BOOL,
    "segment": SEGMENT,
    "speed": SPEED,
    "avd_ans": json_object("arousal, dominance and valence"),
}


# Names that a row may have. BLSP's `instruction` is the request of its response.
_NAMES = _FIELDS.keys() | {"audio", "vad", "instruction"}


@dataclass(frozen=True)
class Utterance:
    """One spoken clip with its labels.

    Attributes:
        id: unique, starts with the corpus, as in `ravdess/03-01-05-01-01-01-07`.
        audio: path of the sound file, or BLSP's `archive.zip:offset:length` in bytes.
        segment: (start, end) in seconds within the file; None for the whole file.
        parent: id of the long recording that the segment was cut from; "" if none.
        speed: at which the clip is played: 1.1 is a tenth faster, and higher in pitch.
        text: transcript.
        emotion: a name of `corpus.emotions`, or a corpus's own name in lower case, or None. With
            `soft_emotion`, the raters' majority: None if they tie.
        soft_emotion: emotion → share of raters (`corpus.soft_labels`); None without raters.
        vad: (arousal, dominance, valence), each in 0..1, or None.
        vad_source: source of `vad`: `human`, `pseudo` (a model) or `made` (a generator's settings).
        duration: seconds; None until measured.
        response: the expected response of step 1, or None.
        early_stop: whether the token limit cut the response, which then has no end tokens.
    """

    id: str
    audio: str
    segment: tuple[float, float] | None = None
    text: str = ""
    emotion: str | None = None
    vad: Vad | None = None
    vad_source: VadSource | None = None
    speaker: str = ""
    split: str = ""
    duration: float | None = None
    response: str | None = None
    early_stop: bool = False
    soft_emotion: Shares | None = None
    speed: float = 1.0
    parent: str = ""


def parse_utterance(
    row: dict[str, Any], folder: Path, where: str, labels: Collection[str] = ()
) -> Utterance:
    """Parse one manifest row with rellm's or BLSP's field names.

    Relative audio paths are relative to `folder`; `where` is the file and line for messages, and
    `labels` are names of emotions besides the known ones (`labels.read_labels`).

    Raises:
        ManifestError: a field is missing or has the wrong type.
    """
    audio = row.get("audio")
    if not isinstance(audio, str) or not audio:
        raise ManifestError(f"{where}: found no 'audio', expected the path of a sound file")
    check_fields(row, _FIELDS, where)
    for name in () if row.keys() <= _NAMES else row.keys() - _NAMES:
        if (near := plain_name(name)) in _NAMES:
            raise ManifestError(f"{where}: found field {name!r}, expected {near!r}; rename it")
    vad = row.get("vad")
    if (blsp := row.get("avd_ans")) is not None and vad is None:
        vad = [blsp.get(name) for name in DIMENSIONS]
    if vad is not None:
        vad = check_vad(vad, where)
    segment = row.get("segment")
    emotion, soft_emotion = _emotions(row.get("emotion"), labels, where)
    return Utterance(
        id=as_text(row.get("id")) or default_id(audio, folder),
        audio=_audio_path(audio, folder),
        segment=(float(segment[0]), float(segment[1])) if segment else None,
        text=row.get("text") or "",
        emotion=emotion,
        soft_emotion=soft_emotion,
        vad=vad,
        vad_source=row.get("vad_source") or ("human" if vad else None),
        speaker=as_text(row.get("speaker")),
        split=row.get("split") or "",
        duration=row.get("duration"),
        response=row.get("response", row.get("output")),
        early_stop=bool(row.get("early_stop")),
        speed=float(row.get("speed") or 1.0),
        parent=as_text(row.get("parent")),
    )


def _emotions(
    value: str | dict[str, Any] | None, labels: Collection[str], where: str
) -> tuple[str | None, dict[str, float] | None]:
    """Emotion and shares of raters of a row's `emotion`."""
    if not value:
        return None, None
    if isinstance(value, str):
        return emotion_of(value, labels, where), None
    shares = read_shares(value, where, lambda label, place: emotion_of(label, labels, place))
    return majority(shares), shares


def _audio_path(audio: str, folder: Path) -> str:
    """`str(folder / audio)`, without a new `Path` for each clip."""
    name = audio.rpartition("/")[2]
    if name in ("", "."):
        return str(folder / audio)
    if audio[0] == "/" and "//" not in audio and "/./" not in audio:
        return audio
    return os.path.join(_join(folder, audio[: -len(name)]), name)


@lru_cache(maxsize=4096)
def _join(folder: Path, below: str) -> str:
    joined = str(folder / below)
    return "" if joined == "." else joined


def default_id(audio: str, folder: Path) -> str:
    """Make an id from the audio path: without suffix; for a zip member, with its offsets."""
    keep_suffix = ".zip:" in audio or not Path(audio).name  # "." has no name
    return f"{folder.name}/{audio if keep_suffix else Path(audio).with_suffix('')}"


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `file:line` and JSON object of each line; NaN is read as null.

    Raises:
        ManifestError: there is no such file, or a line is not an object.
    """
    text = read_utf8(path, ManifestError, "expected a JSON Lines file")
    # Not splitlines(): it also splits at U+2028 and others, which JSON text may contain.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = parse_plain(line)
        if row is None:
            row = parse_object(line, where, ManifestError, "correct this line", strict=True)
        if "\\u" in line:
            check_text(row, where)
        yield where, row


def responses_path(manifest: Path) -> Path:
    """Path of a manifest file's expected responses (step 1), in the same folder."""
    return manifest.with_name(f"{manifest.stem}.responses.jsonl")


def read_manifest(path: Path) -> list[Utterance]:
    """Read all utterances of one manifest file and add their expected responses.

    If the file has the name of a split, its rows without a split belong to that split.

    Raises:
        ManifestError: the file or a line cannot be used, an id occurs twice, a row belongs to
            another split, or there are no rows.
    """
    utterances: dict[str, Utterance] = {}
    unused: dict[str, None] = {}
    split = path.stem if path.stem in SPLITS else ""
    folder, labels = path.parent.resolve(), read_labels(path.parent)
    for where, row in read_lines(path):
        utterance = parse_utterance(row, folder, where, labels)
        if not row.keys() <= _NAMES:
            unused |= dict.fromkeys(name for name in row if name not in _NAMES)
        if split and utterance.split not in ("", split):
            raise ManifestError(
                f"{where}: found split {utterance.split!r} in the file of {split}; move the row to "
                f"{utterance.split}.jsonl, or correct its split"
            )
        if split and not utterance.split:
            utterance = dataclasses.replace(utterance, split=split)
        if utterance.id in utterances:
            raise ManifestError(f"{where}: id {utterance.id!r} occurs twice; ids must be unique")
        utterances[utterance.id] = utterance
    if not utterances:
        raise ManifestError(f"{path}: found no utterance, expected one JSON object a line")
    if unused:
        say_once(f"{path}: fields that are not used: {', '.join(unused)}")
    beside = responses_path(path)
    for where, row in read_lines(beside) if beside.exists() else ():
        check_fields(row, _FIELDS, where)
        if "id" not in row:
            raise ManifestError(f"{where}: found no 'id', expected a row of `rellm respond`")
        if (known := utterances.get(as_text(row["id"]))) is not None:
            utterances[known.id] = dataclasses.replace(
                known, response=row.get("response"), early_stop=bool(row.get("early_stop"))
            )
    return list(utterances.values())


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write utterances as JSON Lines; empty fields are left out."""
    write_lines(path, map(_row, utterances))


def _row(utterance: Utterance) -> dict[str, Any]:
    """The fields of a manifest's line: those that are not empty."""
    row = dataclasses.asdict(utterance)
    if (shares := row.pop("soft_emotion")) is not None:
        row["emotion"] = shares
    if row["speed"] == 1.0:
        del row["speed"]
    return {k: v for k, v in row.items() if v not in (None, "") and v is not False}


def manifest_files(path: Path) -> list[Path]:
    """The manifest file itself, or the files of a manifest folder in the order of the splits."""
    if not path.is_dir():
        return [path]
    files = [path / f"{split}.jsonl" for split in SPLITS if (path / f"{split}.jsonl").exists()]
    if not files:
        raise ManifestError(
            f"{path}: found none of {', '.join(f'{s}.jsonl' for s in SPLITS)}; "
            "make a manifest with `rellm prepare`"
        )
    return files


def read_split(folder: Path, split: str) -> list[Utterance]:
    """One split of a manifest folder; `ManifestError` if it has none."""
    if not folder.is_dir():
        raise ManifestError(
            f"{folder}: found no folder, expected a manifest folder, as `rellm prepare` makes"
        )
    return read_manifest(folder / f"{split}.jsonl")


def read_manifests(path: Path) -> list[Utterance]:
    """Every utterance of a manifest file or folder; an id in two files is an error."""
    utterances = [u for file in manifest_files(path) for u in read_manifest(file)]
    twice = [i for i, count in Counter(u.id for u in utterances).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{path}: {len(twice)} ids occur in more than one split, the first is {twice[0]!r}"
        )
    return utterances
