"""EmoBox reader: the folds of any of its 32 corpora, from EmoBox's own metadata (Ma et al. 2024).

<corpus>/fold_K/<corpus>_train_fold_K.jsonl    one object a line: key, dataset, wav, length, emo …
<corpus>/fold_K/<corpus>_test_fold_K.jsonl
<corpus>/fold_K/<corpus>_valid_fold_K.jsonl    of a few corpora
<corpus>/label_map.json                        label of the corpus → class

A `.json` file holds the same objects by key. Paths of audio are relative to the folder of EmoBox's
downloads; leading folders that a copy does not have are dropped, and a FLAC file may stand for a
WAV file. Where there is no validation set, it is a random fifth of train, as in EmoBox.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from rellm_cache.config.constraints import Range
from rellm_cache.corpus.field_validation import (
    NAME,
    SECONDS,
    TEXT,
    Field,
    as_text,
    check_fields,
)
from rellm_cache.corpus.labels import LabelRule, label_rule
from rellm_cache.corpus.manifest import SPLITS, Utterance, read_lines
from rellm_cache.corpus.readers.base import Corpus, Total
from rellm_cache.corpus.readers.registry import register_corpus
from rellm_cache.corpus.splits import hold_out
from rellm_cache.errors import ManifestError
from rellm_cache.utils.console import counted
from rellm_cache.utils.json_files import read_object
from rellm_cache.utils.regular_files import file_exists

LABEL_MAP = "label_map.json"
FILE_SPLITS = {"train": "train", "valid": "validation", "test": "test"}  # in file names
FIFTH = 5  # one fifth of train becomes validation
CATEGORY = "category"  # the task of rows with an emotion; others have dimensions
PROBED_CLIPS = 200  # clips by which the place of audio files is found
# Speaker in the key, of corpora whose names tell it; EmoBox has no field for it.
SPEAKERS = {
    "cremad": re.compile(r"(?:^|-)(\d{4})_"),
    "emodb": re.compile(r"(?:^|-)(\d\d)[ab]\d\d[A-Z]"),
    "esd": re.compile(r"(?:^|-)(\d{4})_\d{6}"),
    "iemocap": re.compile(r"Ses0(\d)[FM].*([FM])"),
    "ravdess": re.compile(r"(\d\d)$"),
}
_FIELDS: dict[str, Field] = {
    **dict.fromkeys(("wav", "audio", "dataset", "task"), TEXT),
    **dict.fromkeys(("key", "emo", "label", "spk"), NAME),
    **dict.fromkeys(("length", "start_time", "end_time"), SECONDS),
}

Row = tuple[str, dict[str, Any]]  # `file:line` and an object


@dataclass(frozen=True)
class EmoboxOptions:
    """Audio, fold and labels of an EmoBox corpus."""

    audio: str
    """Folder of the audio files: EmoBox's downloads, or the corpus's own folder."""
    fold: Annotated[int, Range(1)] = 1
    """Number of the fold."""
    labels: str = ""
    """JSON file that maps the corpus's labels to emotions, or keep for its own names; the default
    is its label_map.json. Names are written in lower case."""
    seed: int = 1
    """Seed of the random fifth of train that is the validation set where EmoBox has none."""
    skip_missing: bool = False
    """Leave out clips without an audio file, and count them."""


@register_corpus("emobox", options=EmoboxOptions)
def read_emobox(metadata: Path, options: EmoboxOptions) -> Corpus:
    """Read one fold of a corpus by EmoBox's metadata.

    ROOT is a corpus's folder in EmoBox's `data`, as data/ravdess.

    Raises:
        ManifestError: there is no such fold, a row cannot be used, a clip is in train and test, or
            audio is missing.
    """
    return _read_fold(_Metadata(metadata, options), options.fold)


def read_emobox_folds(
    metadata: Path, options: EmoboxOptions, folds: Sequence[int] = ()
) -> dict[int, Corpus]:
    """Read some folds or all; those whose test clips all lack audio are left out, as a note says.

    Raises:
        ManifestError: what `read_emobox` raises, or a clip is tested in two folds.
    """
    found = _Metadata(metadata, options)
    corpora = {fold: _read_fold(found, fold) for fold in folds or found.folds}
    for (first, one), (second, other) in combinations(corpora.items(), 2):
        shared = _test_ids(one) & _test_ids(other)
        if shared:
            raise ManifestError(
                f"{metadata}: {counted(len(shared), 'clip is', 'clips are')} tested in fold "
                f"{first} and in fold {second}, the first is {min(shared)!r}; expected each "
                "in one fold"
            )
    kept = {fold: corpus for fold, corpus in corpora.items() if _test_ids(corpus)}
    if left_out := corpora.keys() - kept.keys():
        names = ", ".join(map(str, sorted(left_out)))
        note = f"Folds without audio of their test clips, left out: {names}"
        kept = {k: replace(c, notes=[*c.notes, note]) for k, c in kept.items()}
    if not kept:
        raise ManifestError(f"{metadata}: no fold has audio of its test clips; see --audio")
    return kept


def _test_ids(corpus: Corpus) -> set[str]:
    return {u.id for u in corpus.utterances if u.split == "test"}


class _Metadata:
    """A corpus's folder of metadata, its label rule and the place of its audio."""

    def __init__(self, folder: Path, options: EmoboxOptions) -> None:
        self.folder, self.options = folder, options
        self.name = folder.resolve().name
        found = [re.fullmatch(r"fold_?(\d+)", path.name) for path in folder.glob("fold*")]
        self.folds = sorted({int(match[1]) for match in found if match})
        if not self.folds:
            raise ManifestError(
                f"{folder}: found no folder fold_1 …; expected a corpus's folder of EmoBox's "
                "metadata, as data/ravdess"
            )
        self.rule, self.rule_name = self._label_rule()
        rows = [row for _, row in self.rows(self.folds[0], "train")]
        self.audio = _AudioFiles(Path(options.audio), [_wav(row) for row in rows])

    def _label_rule(self) -> tuple[LabelRule, str]:
        beside = self.folder / LABEL_MAP
        if self.options.labels or not beside.exists():
            chosen = self.options.labels or "keep"
            return label_rule(chosen), chosen
        return label_rule(str(beside)), LABEL_MAP

    def rows(self, fold: int, split: str) -> list[Row]:
        """Rows of one split of a fold, `train`, `valid` or `test`; none if there is no file."""
        names = [
            f"{place}/{name}_{split}_{place}.{suffix}"
            for place in (f"fold_{fold}", f"fold{fold}")
            for name in (self.name, "*")
            for suffix in ("jsonl", "json")
        ]
        files = [path for pattern in names for path in sorted(self.folder.glob(pattern))]
        if not files:
            if split == "valid":
                return []
            raise ManifestError(
                f"{self.folder}: found no file {names[0]}; expected the {split} set of fold {fold}"
                f"; folds are {', '.join(map(str, self.folds))}"
            )
        rows = _read_rows(files[0])
        for where, row in rows:
            check_fields(row, _FIELDS, where)
        return rows


def _read_rows(file: Path) -> list[Row]:
    if file.suffix == ".jsonl":
        return list(read_lines(file))
    rows: list[Row] = []
    for key, row in read_object(file, ManifestError, "copy it again").items():
        if not isinstance(row, dict):
            raise ManifestError(f"{file}: {key!r} is {row!r:.40}, expected an object")
        rows.append((f"{file}: {key}", {"key": key, **row}))
    return rows


def _wav(row: Mapping[str, Any]) -> str:
    return row.get("wav") or row.get("audio") or ""


class _AudioFiles:
    """Audio files of a corpus below a folder: the path of each, from that in the metadata.

    How many leading folders are dropped, and the suffix, are those that find most clips of a
    sample; they are the same for all clips.
    """

    def __init__(self, folder: Path, wavs: Sequence[str]) -> None:
        if not folder.is_dir():
            raise ManifestError(f"{folder}: found no folder, expected that of the audio files")
        self.folder = folder.resolve()
        sample = wavs[:: max(1, len(wavs) // PROBED_CLIPS)]
        depth = max((len(Path(wav).parts) for wav in sample), default=1)
        ways = [(dropped, suffix) for suffix in ("", ".flac") for dropped in range(depth)]
        self.dropped, self.suffix = max(
            ways, key=lambda way: sum(file_exists(self._path(wav, *way)) for wav in sample)
        )

    def path(self, wav: str) -> Path:
        """The path of a file, which may be missing; an absolute path that exists is kept."""
        if Path(wav).is_absolute() and file_exists(wav):
            return Path(wav)
        return self._path(wav, self.dropped, self.suffix)

    def _path(self, wav: str, dropped: int, suffix: str) -> Path:
        path = Path(wav)
        parts = [part for part in path.parts if part != path.anchor]
        below = self.folder.joinpath(*(parts[min(dropped, len(parts) - 1) :] if parts else ()))
        return below.with_suffix(suffix) if suffix and below.name else below


def _read_fold(metadata: _Metadata, fold: int) -> Corpus:
    options = metadata.options
    found: list[Utterance] = []
    others: Counter[str] = Counter()
    for name, split in FILE_SPLITS.items():
        for where, row in metadata.rows(fold, name):
            if (task := row.get("task") or CATEGORY) != CATEGORY:
                others[task] += 1
                continue
            found.append(replace(_utterance(row, where, metadata), split=split))
    _refuse_shared_clips(found, metadata.folder, fold)
    given = {u.split for u in found}
    missing = [u for u in found if not file_exists(u.audio)]
    if missing and not options.skip_missing:
        raise ManifestError(
            f"{metadata.folder}: fold {fold}: the audio of {len(missing)} of {len(found)} clips is "
            f"missing, the first is {missing[0].audio}; complete {options.audio}, or leave such "
            "clips out with --skip-missing"
        )
    absent = {u.id for u in missing}
    kept = [u for u in found if u.id not in absent]
    placed = kept if "validation" in given else hold_out(kept, options.seed, parts=FIFTH)
    return Corpus(
        name=f"emobox-{metadata.name}",
        utterances=placed,
        splits=f"EmoBox fold {fold}",
        seed=None if "validation" in given else options.seed,
        totals=_totals(found, absent),
        notes=_notes(metadata, others, missing, "validation" in given),
        root=metadata.folder,
        own_labels=True,
    )


def _utterance(row: dict[str, Any], where: str, metadata: _Metadata) -> Utterance:
    key, wav = as_text(row.get("key")), _wav(row)
    label = as_text(row["emo"] if row.get("emo") is not None else row.get("label"))
    if not key or not wav or not label:
        raise ManifestError(f"{where}: expected the fields key, wav and emo; found {sorted(row)}")
    corpus = row.get("dataset") or metadata.name
    clip = key.removeprefix(f"{corpus}-")
    start, end = row.get("start_time"), row.get("end_time")
    if start is not None and end is not None and not start < end:
        raise ManifestError(f"{where}: found start_time {start} and end_time {end}")
    return Utterance(
        id=f"{corpus}/{clip}",
        audio=str(metadata.audio.path(wav)),
        segment=None if start is None or end is None else (float(start), float(end)),
        text=row.get("text") or "",
        emotion=metadata.rule.emotion(label, where),
        speaker=_speaker(row, corpus, clip),
        duration=row.get("length"),
    )


def _speaker(row: Mapping[str, Any], corpus: str, clip: str) -> str:
    speaker = as_text(row.get("spk"))
    if not speaker and corpus in SPEAKERS and (match := SPEAKERS[corpus].search(clip)):
        speaker = "".join(match.groups())
    return f"{corpus}/{speaker}" if speaker else ""


def _refuse_shared_clips(found: Sequence[Utterance], folder: Path, fold: int) -> None:
    splits: dict[str, str] = {}
    for u in found:
        if (other := splits.setdefault(u.id, u.split)) != u.split:
            raise ManifestError(
                f"{folder}: fold {fold}: clip {u.id!r} is in {other} and in {u.split}; expected it "
                "in one of them"
            )


def _totals(found: Sequence[Utterance], absent: set[str]) -> list[Total]:
    """Clips of each split of EmoBox with their audio, and as the metadata lists them."""
    listed = Counter(u.split for u in found)
    there = Counter(u.split for u in found if u.id not in absent)
    return [Total(split, there[split], listed[split]) for split in SPLITS if listed[split]]


def _notes(
    metadata: _Metadata, others: Counter[str], missing: Sequence[Utterance], has_validation: bool
) -> list[str]:
    seed = metadata.options.seed
    notes = [f"Labels: {metadata.rule_name}, names in lower case"]
    if not has_validation:
        notes.append(f"EmoBox has no validation set: a random fifth of train, seed {seed}")
    if missing:
        notes.append(f"{counted(len(missing), 'clip')} without audio left out: {_lost(missing)}")
    notes += [
        f"{counted(count, 'row')} of task {task!r} left out" for task, count in others.items()
    ]
    return notes


def _lost(missing: Sequence[Utterance]) -> str:
    """Clips without audio by split, and by speaker where speakers are known and few."""
    by_split = Counter(u.split for u in missing)
    parts = [f"{by_split[split]} of {split}" for split in SPLITS if by_split[split]]
    speakers = sorted({u.speaker.partition("/")[2] for u in missing if u.speaker})
    who = f"; speakers {', '.join(speakers)}" if 0 < len(speakers) <= len(SPLITS) * 4 else ""
    return f"{', '.join(parts)}{who}"
