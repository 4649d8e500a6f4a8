"""Manifest files: reading and writing utterances as JSON Lines, one utterance per line.

A manifest is a folder with one file per split (`train.jsonl`, `validation.jsonl`, `test.jsonl`).
`<split>.responses.jsonl` in the same folder has the expected responses of step 1. Reading a
manifest adds them to the utterances. BLSP's field names are accepted too.
"""

import dataclasses
import gc
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rellm_cache.corpus.audio_location import audio_below, default_id
from rellm_cache.corpus.dimensions import DIMENSIONS, Vad, check_vad
from rellm_cache.corpus.field_validation import (
    BOOL,
    NAME,
    SECONDS,
    SEGMENT,
    SHA256,
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
from rellm_cache.utils.json_files import parse_object, parse_plain_lines, read_utf8

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
    "source_sha256": SHA256,
    "avd_ans": json_object("arousal, dominance and valence"),
}


# Names that a row may have. BLSP's `instruction` is the request of its response.
_NAMES = _FIELDS.keys() | {"audio", "vad", "instruction"}


@dataclass(frozen=True)
class Utterance:
    """One spoken clip with its labels.

    Attributes:
        id: unique, starts with the corpus, as in `ravdess/03-01-05-01-01-01-07`.
        audio: path of the sound file, or a part of a container (`corpus.audio_location`), as
            BLSP's `archive.zip:offset:length` in bytes.
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
        source_sha256: SHA-256 (hex) of the audio's bytes in its container when the manifest was
            prepared; other bytes are then an error. None for a file of its own.
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
    source_sha256: str | None = None
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
        audio=audio_below(folder, audio),
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
        source_sha256=row.get("source_sha256"),
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


class QuickRows:
    """Parses the plain rows of one manifest file like `parse_utterance`, but much faster.

    Only names and types of fields that occurred in a row before, and emotions that did, are taken.
    `parse` returns None for any other row and any doubtful value: `parse_utterance` then decides.

    Args:
        folder: to which relative audio paths are relative.
        split: of rows without one.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = folder
        self._split = split
        self._splits = frozenset((split,) if split else ("", *SPLITS))
        self._names: set[tuple[str, ...]] = set()
        self._emotions: dict[Any, str | None] = {None: None, "": None}

    def learn(self, row: dict[str, Any], utterance: Utterance) -> None:
        """Take note of a row that `parse_utterance` accepted."""
        self._names.add(tuple(row))
        if isinstance(emotion := row.get("emotion"), str):
            self._emotions[emotion] = utterance.emotion

    def parse(self, row: dict[str, Any]) -> Utterance | None:
        """Parse a row without unusual values; None for others."""
        if tuple(row) not in self._names or not row.keys().isdisjoint(_SLOW):
            return None
        get = row.get
        key, audio, text, emotion = get("id"), get("audio"), get("text"), get("emotion")
        speaker, split, duration = get("speaker"), get("split"), get("duration")
        vad, source, response = get("vad"), get("vad_source"), get("response")
        if not (
            type(key) is type(audio) is str
            and key
            and audio
            and (type(text) is str or text is None)
            and (type(speaker) is str or speaker is None)
            and (type(response) is str or response is None)
            and (type(emotion) is str or emotion is None)
            and emotion in self._emotions
            and (type(split) is str or split is None)
            and (split or self._split) in self._splits
            and (duration is None or (type(duration) is float and 0.0 <= duration < math.inf))
            and (source is None or (type(source) is str and source in _SOURCES))
        ):
            return None
        if vad is not None:
            if not (type(vad) is list and len(vad) == 3 and all(map(_is_share, vad))):
                return None
            vad, source = tuple(vad), source or "human"
        utterance: Any = _OpenUtterance(  # by position, which is quicker
            key,
            audio_below(self.folder, audio),
            None,
            text or "",
            self._emotions[emotion],
            vad,
            source,
            speaker or "",
            split or self._split,
            duration,
            response,
        )
        utterance.__class__ = Utterance
        return cast("Utterance", utterance)


# A frozen dataclass sets each field by a call: this twin is made in a third of the time.
_OpenUtterance = dataclasses.make_dataclass(
    "_OpenUtterance",
    [
        (item.name, Any, dataclasses.field(default=item.default))
        for item in dataclasses.fields(Utterance)
    ],
)
_SOURCES = frozenset(get_args(VadSource))
# Fields of rows that `parse_utterance` alone parses.
_SLOW = frozenset(("segment", "speed", "avd_ans", "early_stop", "output", "source_sha256"))


def _is_share(value: object) -> bool:
    return type(value) is float and 0.0 <= value <= 1.0


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `file:line` and JSON object of each line; NaN is read as null.

    Raises:
        ManifestError: there is no such file, or a line is not an object.
    """
    for number, line, row in _read_plain(path):
        if row is not None:
            yield f"{path}:{number}", row
        elif line.strip():
            yield _parse_line(path, number, line)


def _read_plain(path: Path) -> Iterator[tuple[int, str, dict[str, Any] | None]]:
    """Yield number, text, and, if it is plain, JSON object of each line."""
    text = read_utf8(path, ManifestError, "expected a JSON Lines file")
    # Not splitlines(): it also splits at U+2028 and others, which JSON text may contain.
    lines = text.split("\n")
    return zip(count(1), lines, parse_plain_lines(lines), strict=False)


def _parse_line(path: Path, number: int, line: str) -> tuple[str, dict[str, Any]]:
    """`file:line` and JSON object of a line of any kind."""
    where = f"{path}:{number}"
    row = parse_object(line, where, ManifestError, "correct this line", strict=True)
    if "\\u" in line:
        check_text(row, where)
    return where, row


def responses_path(manifest: Path) -> Path:
    """Path of a manifest file's expected responses (step 1), in the same folder."""
    return manifest.with_name(f"{manifest.stem}.responses.jsonl")


@contextmanager
def _paused_collection() -> Iterator[None]:
    """Pause Python's garbage collector, which would look through all rows again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_paused_collection()
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
    quick = QuickRows(path.parent.resolve(), split)
    labels = read_labels(path.parent)
    for number, line, plain in _read_plain(path):
        utterance = None if plain is None else quick.parse(plain)
        if utterance is None:
            if plain is None and not line.strip():
                continue
            where, row = _parse_line(path, number, line)
            utterance = parse_utterance(row, quick.folder, where, labels)
            unused |= dict.fromkeys(name for name in row if name not in _NAMES)
            quick.learn(row, utterance)
            if split and utterance.split not in ("", split):
                raise ManifestError(
                    f"{where}: found split {utterance.split!r} in the file of {split}; move the "
                    f"row to {utterance.split}.jsonl, or correct its split"
                )
            if split and not utterance.split:
                utterance = dataclasses.replace(utterance, split=split)
        if utterance.id in utterances:
            raise ManifestError(
                f"{path}:{number}: id {utterance.id!r} occurs twice; ids must be unique"
            )
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
    splits = [read_manifest(file) for file in manifest_files(path)]
    if len(splits) == 1:  # its ids are unique
        return splits[0]
    utterances = [utterance for split in splits for utterance in split]
    twice = [i for i, count in Counter(u.id for u in utterances).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{path}: {len(twice)} ids occur in more than one split, the first is {twice[0]!r}"
        )
    return utterances
